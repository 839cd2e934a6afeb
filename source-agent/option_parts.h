// Options that several commands of `migrate` have.
#pragma once

#include <CLI/CLI.hpp>
#include <string>

#include "common/base/error.h"
#include "source-agent/options.h"

namespace godwit {

struct Verbosity {
  bool quiet = false;
  int verbose = 0;

  LogLevel level() const {
    if (quiet) return LogLevel::kError;
    if (verbose >= 2) return LogLevel::kDebug;
    return verbose == 1 ? LogLevel::kInfo : LogLevel::kWarning;
  }
};

// An option whose text a parser of command_line_values.h turns into a value.
template <typename Parse>
CLI::Option* add_parsed(CLI::App& app, const std::string& name, const std::string& help,
                        const std::string& type, Parse parse) {
  CLI::Option* option = app.add_option_function<std::string>(
      name,
      [name, parse](const std::string& text) {
        try {
          parse(text);
        } catch (const Error& error) {
          throw CLI::ValidationError(name, error.what());
        }
      },
      help);
  return option->type_name(type);
}

void add_pid(CLI::App& app, MigrateOptions& options, const char* help);
// --to and --keys.
void add_destination(CLI::App& app, MigrateOptions& options);
void add_cpu(CLI::App& app, MigrateOptions& options);
void add_json(CLI::App& app, MigrateOptions& options);
void add_verbosity(CLI::App& app, Verbosity& verbosity);
void add_state_dir(CLI::App& app, MigrateOptions& options);
void add_max_downtime(CLI::App& app, MigrateOptions& options);
void add_tracker(CLI::App& app, MigrateOptions& options);
void add_max_rounds(CLI::App& app, MigrateOptions& options, const char* help);
void add_addressing(CLI::App& app, MigrateOptions& options);
// --leave-running.
void add_copy(CLI::App& app, MigrateOptions& options);
// After parsing: what can't be had together with it. Throws CLI::ValidationError.
void check_copy(const CLI::App& app, MigrateOptions& options);
void add_reconnect_timeout(CLI::App& app, MigrateOptions& options);
// How a process is moved, wherever it goes. A registration has them, too.
void add_move_options(CLI::App& app, MigrateOptions& options);

}  // namespace godwit
