// The part of the command line that is about registered workloads.
#pragma once

#include <string>
#include <vector>

#include "source-agent/option_parts.h"

namespace godwit {

// --workload and what goes with it, for a command that moves one process.
void add_workload(CLI::App& app, MigrateOptions& options);
// That the options given to such a command go together. Throws CLI::ParseError.
void check_workload(const CLI::App& app);
void add_workload_commands(CLI::App& app, MigrateOptions& options, Verbosity& verbosity);
// What these commands can't do without. Throws CLI::ParseError.
void check_workload_command(const MigrateOptions& options);

// Takes the options of a registration over, which another host may have sent: only such as
// add_move_options() knows. Throws Error that quotes what is none.
void apply_registered_options(const std::vector<std::string>& words, MigrateOptions& options);

}  // namespace godwit
