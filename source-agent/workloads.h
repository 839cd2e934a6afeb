// `migrate register`, `unregister`, `registered`, and what a registration means for a migration.
#pragma once

#include <iosfwd>

#include "source-agent/options.h"

namespace godwit {

// Each says on `out` what it did. Return 0; throw Refused or Error.
int run_register(const MigrateOptions& options, std::ostream& out);
int run_unregister(const MigrateOptions& options, std::ostream& out);
int run_registered(const MigrateOptions& options, std::ostream& out);

// The options of a migration of `options.workload`: its process, how it is registered to be moved,
// and with `returning`, where to. Without a workload: as they are. Throws Refused:
// workload-unknown, workload-away, workload-gone, workload-at-home.
MigrateOptions with_registration(MigrateOptions options);
// What the destination is told of it.
proto::TravellingWorkload travelling_workload(const MigrateOptions& options);
// The registration still means the process: throws Refused (workload-gone) otherwise.
void check_still_registered(const MigrateOptions& options);

}  // namespace godwit
