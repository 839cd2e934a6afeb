#include "dest-agent/restore_command.h"

#include <iostream>

#include "common/base/clock.h"
#include "common/base/human_text.h"
#include "common/base/log.h"
#include "common/kernel/agent_privileges.h"
#include "common/model/report.h"
#include "common/model/report_text.h"
#include "common/wire/preface.h"
#include "dest-agent/lazy_restore.h"
#include "dest-agent/player.h"
#include "dest-agent/recovery.h"
#include "dest-agent/resumed_session.h"
#include "dest-agent/session.h"

namespace godwit {
namespace {

// One run of the command.
class Restore {
 public:
  explicit Restore(const DestOptions& options)
      : options_(options), began_ns_(monotonic_ns()), id_(make_migration_id()) {}

  int run();

 private:
  void open();
  int restore(int link);
  int resume(int link, std::vector<Passed> held);
  void play(int link, MigrationReport& report);
  void tell_running(const Player& player) const;
  MigrationReport new_report() const;
  int tell(MigrationReport& report, std::optional<ReportFile>& file) const;

  const DestOptions& options_;
  std::int64_t began_ns_;
  std::string id_;
  std::optional<Image> image_;
  std::vector<ImageLevel> levels_;  // their files stay open: an image may be deleted meanwhile
};

void Restore::open() {
  if (const std::string missing = missing_privileges(); !missing.empty()) {
    throw Refused("agent-lacks-privilege", missing,
                  "run it as root with its capabilities: it builds processes of any user");
  }
  image_ = in_context([&] { return Image::open(options_.image); }, "restore");
  // What is damaged in its index refuses; what is in its pages shows when they are read.
  levels_ = image_->open_levels();
  if (options_.lazy) return;  // the page server, which reads it too, is soon enough
  const ImagePages pages(image_->open_levels());
  for (const std::uint32_t space : pages.spaces()) pages.pages_of(space);
}

MigrationReport Restore::new_report() const {
  MigrationReport report;
  report.command = "restore";
  report.migration_id = id_;
  report.destination = "file:" + options_.image;
  report.state = State::kRolledBack;
  if (image_) report.pid_source = image_->manifest().pid();
  return report;
}

void Restore::tell_running(const Player& player) const {
  if (options_.json_path == "-") return;
  std::cout << fmt::format("running: pid {} of file:{} is pid {} here, after {}; its pages follow",
                           image_->manifest().pid(), options_.image, player.host_pid(),
                           duration_text(monotonic_ns() - began_ns_))
            << std::endl;
}

void Restore::play(int link, MigrationReport& report) {
  auto owned = std::make_unique<Player>(
      *image_, id_,
      Player::Choices{.pids = options_.pids,
                      .tcp = options_.tcp == "keep" ? TcpChoice::kKeep : TcpChoice::kClose,
                      .ignore_processor = options_.cpu == "ignore",
                      .lazy = options_.lazy});
  Player& player = *owned;
  proto::PlayImage order;
  order.set_round(Player::kRound);
  order.set_generation(Player::kGeneration);
  order.set_bandwidth_bytes_per_s_max(options_.bandwidth_bytes_per_s_max);
  if (options_.lazy) {
    order.set_lazy(true);
    for (const PageRange& range : player.eager_pages()) {
      proto::PageSpan& span = *order.add_eager();
      span.set_start(range.start);
      span.set_end(range.end);
    }
    player.set_hooks({outlive_signals, [&] { tell_running(player); }});
  }
  Channel control(std::move(owned));
  LostImagePages lost;
  try {
    play_session(options_, levels_, order, control, link, lost);
    report.error = lost.story();
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

int Restore::tell(MigrationReport& report, std::optional<ReportFile>& file) const {
  report.total_ns = monotonic_ns() - began_ns_;
  if (file) file->write(report);
  const bool good = report.state == State::kCompleted && !report.error;
  if (!good) {
    std::cerr << report_text(report) << std::flush;
  } else if (options_.json_path != "-") {
    std::cout << outcome_line(report) << std::endl;
  }
  return good || report.state != State::kCompleted ? exit_code_of(report.state) : 1;
}

// Throws nothing but what a report can't be written for.
int Restore::restore(int link) {
  std::optional<ReportFile> file;
  if (options_.json_path) file.emplace(*options_.json_path);
  MigrationReport report = new_report();
  try {
    if (!image_) open();
    report.pid_source = image_->manifest().pid();
    play(link, report);
  } catch (const Error& error) {
    report.error = describe_error(error);
    report.state = State::kRefused;
  }
  // What was begun and not finished.
  if (report.state != State::kCompleted) recover_destination(options_.state_dir, id_);
  return tell(report, file);
}

int Restore::resume(int link, std::vector<Passed> held) {
  std::optional<ReportFile> file;
  if (options_.json_path) file.emplace(*options_.json_path);
  MigrationReport report = new_report();
  report.state = State::kCompleted;
  report.pid_destination = find_migrated(options_, id_);
  PostCopy post_copy(link, std::move(held));
  LostImagePages lost;
  fill_in_pages(levels_, options_, post_copy, report.pid_destination, lost);
  forget_migration(options_, id_);
  report.error = lost.story();
  return tell(report, file);
}

int Restore::run() {
  if (!options_.lazy) return restore(-1);
  RestoreSessions sessions;
  // The keeper holds the files as well. What is wrong with them is the session's to tell.
  try {
    open();
  } catch (const Error&) {
    return restore(-1);
  }
  sessions.restore = [&](int link) { return restore(link); };
  sessions.resume = [&](int link, std::vector<Passed> held) {
    return resume(link, std::move(held));
  };
  sessions.is_running = [&] {
    recover_destination(options_.state_dir, id_);
    return is_running(options_.state_dir, id_);
  };
  return keep_restore(sessions);
}

}  // namespace

int run_restore(const DestOptions& options) { return Restore(options).run(); }

}  // namespace godwit
