// migrate: moves a running process to another host. See docs/architecture.md.
#include <signal.h>

#include <iostream>
#include <optional>

#include "common/base/log.h"
#include "common/base/standard_fds.h"
#include "common/model/report_text.h"
#include "source-agent/cancel.h"
#include "source-agent/commands.h"
#include "source-agent/drain.h"
#include "source-agent/image_commands.h"
#include "source-agent/options.h"
#include "source-agent/periodic.h"
#include "source-agent/session.h"
#include "source-agent/workloads.h"

namespace {

using namespace godwit;

// What its registration says against moving it is a refusal like any other.
MigrationReport refused_report(const MigrateOptions& options, const Refused& error) {
  MigrationReport report;
  report.command = options.command == MigrateOptions::Command::kCheck ? "check" : "migrate";
  report.state = State::kRefused;
  report.destination = options.to.host.empty() ? "" : options.target();
  report.error = describe_error(error);
  return report;
}

MigrationReport run_shown(const MigrateOptions& asked) {
  MigrateOptions options;
  try {
    options = with_registration(asked);
  } catch (const Refused& error) {
    return refused_report(asked, error);
  }
  Progress progress(options);
  return options.command == MigrateOptions::Command::kCheck ? run_check(options, progress)
                                                            : run_migration(options, progress);
}

// What goes wrong here is told, and does not change the exit code: that says where the process
// runs.
void write_report(ReportFile& file, const MigrationReport& report) {
  try {
    file.write(report);
  } catch (const Error& error) {
    std::cerr << "migrate: the report could not be written: " << error.what() << '\n'
              << "  the exit code says what became of the process all the same\n";
  }
}

void print_report(const MigrateOptions& options, const MigrationReport& report) {
  const bool good = exit_code_of(report.state) == 0;
  const std::string text =
      good && options.quiet ? outcome_line(report) + "\n" : report_text(report);
  if (good && options.json_path != "-" && std::cout << text << std::flush) return;
  std::cerr << text << std::flush;
}

State run_once(const MigrateOptions& options, bool* writes_much = nullptr) {
  std::optional<ReportFile> file;
  if (options.json_path) file.emplace(*options.json_path);
  const MigrationReport report = run_shown(options);
  if (file) write_report(*file, report);
  print_report(options, report);
  if (writes_much != nullptr) *writes_much = report.copied_on_write;
  return report.state;
}

int run_again_and_again(const MigrateOptions& options) {
  bool writes_much = false;
  return run_periodic(options, [&](MigrateOptions turn) {
    turn.writes_much = writes_much;
    return run_once(turn, &writes_much);
  });
}

int run_reported(const MigrateOptions& options) {
  // To the very end of the program: one that comes too late must not change its exit code.
  [[maybe_unused]] static const CancelSignals& signals = *new CancelSignals;
  if (options.every_ns != 0) return run_again_and_again(options);
  return exit_code_of(run_once(options));
}

int run_drained(const MigrateOptions& options) {
  [[maybe_unused]] static const CancelSignals& signals = *new CancelSignals;
  return run_drain(options, std::cout);
}

int run(const MigrateOptions& options) {
  switch (options.command) {
    case MigrateOptions::Command::kKeysInit:
    case MigrateOptions::Command::kKeysIssue:
      return run_keys(options, std::cout);
    case MigrateOptions::Command::kStates:
      return run_states(options, std::cout);
    case MigrateOptions::Command::kStatus:
      return run_status(options, std::cout);
    case MigrateOptions::Command::kRecover:
      return run_recover(options, [](const std::string& line) { std::cout << line << '\n'; }) ? 0
                                                                                              : 3;
    case MigrateOptions::Command::kRestore:
      become_restore(options);
    case MigrateOptions::Command::kRegister:
      return run_register(options, std::cout);
    case MigrateOptions::Command::kUnregister:
      return run_unregister(options, std::cout);
    case MigrateOptions::Command::kRegistered:
      return run_registered(options, std::cout);
    case MigrateOptions::Command::kDrain:
      return run_drained(options);
    case MigrateOptions::Command::kImagesVerify:
    case MigrateOptions::Command::kImagesList:
    case MigrateOptions::Command::kImagesMerge:
    case MigrateOptions::Command::kInspect:
    case MigrateOptions::Command::kCore:
      return run_image_command(options, std::cout, std::cerr);
    case MigrateOptions::Command::kCheckpoint:
    case MigrateOptions::Command::kMigrate:
    case MigrateOptions::Command::kCheck:
      break;
  }
  return run_reported(options);
}

}  // namespace

int main(int argc, char** argv) {
  keep_standard_fds();
  // Whoever reads what is said may go away; that is no reason to leave a migration half done.
  ::signal(SIGPIPE, SIG_IGN);
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
