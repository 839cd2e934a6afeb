#include "dest-agent/restore_command.h"

#include <iostream>

#include "common/base/clock.h"
#include "common/base/log.h"
#include "common/kernel/agent_privileges.h"
#include "common/model/report.h"
#include "common/model/report_text.h"
#include "common/wire/preface.h"
#include "dest-agent/player.h"
#include "dest-agent/recovery.h"
#include "dest-agent/session.h"

namespace godwit {
namespace {

void restore(const DestOptions& options, const std::string& id, MigrationReport& report) {
  if (const std::string missing = missing_privileges(); !missing.empty()) {
    throw Refused("agent-lacks-privilege", missing,
                  "run it as root with its capabilities: it builds processes of any user");
  }
  const Image image = in_context([&] { return Image::open(options.image); }, "restore");
  report.pid_source = image.manifest().pid();
  // What is damaged in its index refuses; what is in its pages shows when they are read.
  const ImagePages pages(image.open_levels());
  for (const std::uint32_t space : pages.spaces()) pages.pages_of(space);
  auto owned = std::make_unique<Player>(
      image, id, options.pids, options.tcp == "keep" ? TcpChoice::kKeep : TcpChoice::kClose);
  const Player& player = *owned;
  Channel control(std::move(owned));
  try {
    play_session(options, image, control);
  } catch (const Error& error) {
    report.error = describe_error(error);
  }
  report.findings = player.findings();
  report.pids = player.pids();
  if (player.committed_ns() != 0) {
    report.state = State::kCompleted;
    report.pid_destination = player.host_pid();
  } else if (refuses(report.findings)) {
    report.state = State::kRefused;
  }
}

}  // namespace

int run_restore(const DestOptions& options) {
  const std::int64_t began_ns = monotonic_ns();
  std::optional<ReportFile> file;
  if (options.json_path) file.emplace(*options.json_path);
  MigrationReport report;
  report.command = "restore";
  report.migration_id = make_migration_id();
  report.destination = "file:" + options.image;
  report.state = State::kRolledBack;
  try {
    restore(options, report.migration_id, report);
  } catch (const Error& error) {
    report.error = describe_error(error);
    report.state = State::kRefused;
  }
  // What was begun and not finished.
  if (report.state != State::kCompleted)
    recover_destination(options.state_dir, report.migration_id);
  report.total_ns = monotonic_ns() - began_ns;
  if (file) file->write(report);
  const bool good = report.state == State::kCompleted;
  if (!good) {
    std::cerr << report_text(report) << std::flush;
  } else if (options.json_path != "-") {
    std::cout << outcome_line(report) << std::endl;
  }
  return exit_code_of(report.state);
}

}  // namespace godwit
