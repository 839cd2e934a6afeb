// A whole migration, or a whole check, from the command line's values to the report.
#pragma once

#include <functional>
#include <string>

#include "common/model/report.h"
#include "source-agent/options.h"
#include "source-agent/progress.h"

namespace godwit {

// Throws nothing that the report can tell: its state says how it ended (exit_code_of()). A
// CancelSignals should live meanwhile; without it a signal ends the program where it is.
MigrationReport run_migration(const MigrateOptions& options, Progress& progress);
MigrationReport run_check(const MigrateOptions& options, Progress& progress);

// `migrate recover`: settles what agents that died left on this host. Prints what it does by
// `progress`. Returns false when something stays in doubt.
bool run_recover(const MigrateOptions& options,
                 const std::function<void(const std::string&)>& progress);
// Looks only, for a check: adds `in-doubt` when an earlier migration of the process is not settled
// and can't be without its destination.
void find_unsettled(const MigrateOptions& options, Findings& findings);
// The same before a migration, into the log only; another destination than that of this process is
// not asked. Throws Refused when the process itself stays in doubt.
void recover_before(const MigrateOptions& options);

}  // namespace godwit
