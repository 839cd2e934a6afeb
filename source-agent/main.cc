// migrate: moves a running process to another host. See docs/architecture.md.
#include <iostream>

#include "common/base/log.h"
#include "source-agent/commands.h"
#include "source-agent/options.h"
#include "source-agent/session.h"

namespace {

using namespace godwit;

int run_reported(const MigrateOptions& options) {
  const auto progress = [&](const std::string& line) {
    if (!options.quiet) std::cerr << line << std::endl;
  };
  const MigrationReport report = options.command == MigrateOptions::Command::kCheck
                                     ? run_check(options)
                                     : run_migration(options, progress);
  const bool json_on_stdout = options.json_path == "-";
  if (options.json_path) write_report(report, *options.json_path);
  const int code = exit_code_of(report.state);
  if (code != 0 || (!options.quiet && !json_on_stdout)) {
    (code == 0 ? std::cout : std::cerr) << report_text(report);
  }
  return code;
}

int run(const MigrateOptions& options) {
  switch (options.command) {
    case MigrateOptions::Command::kKeysInit:
    case MigrateOptions::Command::kKeysIssue:
      return run_keys(options, std::cout);
    case MigrateOptions::Command::kStates:
      return run_states(options, std::cout);
    case MigrateOptions::Command::kRecover:
      return run_recover(options, [](const std::string& line) { std::cout << line << '\n'; }) ? 0
                                                                                              : 3;
    case MigrateOptions::Command::kMigrate:
    case MigrateOptions::Command::kCheck:
      break;
  }
  return run_reported(options);
}

}  // namespace

int main(int argc, char** argv) {
  const MigrateCommandLine line = parse_migrate_command_line(argc, argv, std::cout, std::cerr);
  if (!line.options) return line.exit_code;
  set_up_log("migrate", line.options->log_level);
  try {
    return run(*line.options);
  } catch (const Error& error) {
    std::cerr << "migrate: " << error.what() << '\n';
    if (!error.hint().empty()) std::cerr << "  " << error.hint() << '\n';
    return 2;
  } catch (const std::exception& error) {
    std::cerr << "migrate: " << error.what() << '\n';
    return 2;
  }
}
