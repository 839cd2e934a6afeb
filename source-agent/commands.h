// The commands of `migrate` that need no agent.
#pragma once

#include <iosfwd>

#include "source-agent/options.h"

namespace godwit {

// kKeysInit, kKeysIssue: makes the files and says on `out` what was made. Returns 0; throws Error.
int run_keys(const MigrateOptions& options, std::ostream& out);

// kStatus: prints what the agents of this host tell. Returns 0; throws Error.
int run_status(const MigrateOptions& options, std::ostream& out);

// kStates: prints the state machine. Returns 0.
int run_states(const MigrateOptions& options, std::ostream& out);

}  // namespace godwit
