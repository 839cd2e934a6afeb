#include "source-agent/session.h"

#include <sys/stat.h>

#include "common/base/clock.h"
#include "common/base/log.h"
#include "common/kernel/file_identity.h"
#include "source-agent/migration.h"

namespace godwit {
namespace {

// Of a program whose files and threads come and go.
constexpr int kTriesMax = 5;
constexpr int kPlainTries = 2;  // of these, the last ones of an image

Event event_of(const Error& error) {
  if (dynamic_cast<const Cancelled*>(&error) != nullptr) return Event::kCancelled;
  if (error.code() == ECONNRESET || error.code() == EPIPE) return Event::kPeerGone;
  return Event::kFailed;
}

// What happens to an error, by how far the migration had come.
void end_badly(Migration& migration, const Error& error) {
  migration.report.error = describe_error(error);
  migration.error = Error(error.what(), error.code(), error.hint());
  migration.peer_aborted = dynamic_cast<const PeerAborted*>(&error) != nullptr;
  const bool refused = dynamic_cast<const Refused*>(&error) != nullptr;
  if (refused && migration.machine.accepts(Event::kPreflightRefused)) {
    migration.machine.apply(Event::kPreflightRefused);
    return;
  }
  const bool too_late_to_cancel = is_past_commit(migration.machine.state());
  migration.machine.apply(too_late_to_cancel ? Event::kCommitLost : event_of(error));
  if (migration.machine.state() == State::kInDoubt) settle_doubt(migration);
  if (migration.machine.state() == State::kRollingBack) roll_back(migration);
}

// A file that was described and has been removed or replaced since, as programs do with their
// temporary ones: the destination could not have it. Empty: none.
std::string find_passed_file(const Migration& migration) try {
  proto::FdTable described;
  if (!described.ParseFromString(migration.described_fd_table)) return {};
  for (const proto::OpenFile& file : described.files()) {
    if (!file.has_regular_file()) continue;
    const proto::RegularFile& regular = file.regular_file();
    struct stat now {};
    const std::string path = reachable_path(migration.options.pid, regular.path());
    if (::lstat(path.c_str(), &now) != 0 || now.st_ino != regular.inode()) return regular.path();
  }
  return {};
} catch (const Error&) {
  return {};  // the process has ended, which no other try changes
}

// What failed was a moment's matter: an Error of the code EAGAIN, or a file that is no more.
bool is_worth_another_try(const Migration& migration) {
  if (migration.machine.state() != State::kRolledBack || cancel_requested() != 0) return false;
  const std::string passed = migration.peer_aborted ? find_passed_file(migration) : std::string();
  if (passed.empty() && migration.error->code() != EAGAIN) return false;
  log_warning("the migration begins again: {}{}", migration.report.error->story,
              passed.empty() ? "" : fmt::format(" ({} was removed meanwhile)", passed));
  return true;
}

void finish_report(Migration& migration) {
  const std::int64_t now = monotonic_ns();
  migration.report.total_ns = now - migration.began_ns;
  set_phases(migration.report, migration.machine, now);
}

// The process runs at the destination. An error leaves its copy here, which has pages that are
// missing there.
void finish(Migration& migration) try { complete(migration); } catch (const Error& error) {
  migration.report.error = describe_error(error);
  log_error("migration={} {}", migration.id, error.what());
}

// How a process is saved that runs on. At first as it would be moved: nothing of it waits, and the
// little that is left is copied in the pause. One that writes more than that is copied on write,
// where whoever writes to a page for the first time waits for it. A program that gives memory back
// all the time may spoil each instant that is held of it so; then what is left is copied while it
// stands still, however much that is.
void choose_saving(Migration& migration, int tries_left) {
  migration.takes_little = tries_left == kTriesMax - 1 && !migration.options.writes_much;
  migration.copy_on_write = !migration.takes_little && tries_left > kPlainTries;
  migration.report.copied_on_write = migration.copy_on_write;
}

// Nothing: to be tried again.
std::optional<MigrationReport> try_migration(const MigrateOptions& options, Progress& progress,
                                             int tries_left) {
  Migration migration(options, progress);
  if (options.leave_running && !options.image.empty()) choose_saving(migration, tries_left);
  if (options.leave_running) migration.report.command = "copy";
  if (!options.image.empty()) migration.report.command = "checkpoint";
  try {
    progress.enter(migration.machine.state());
    recover_before(options);
    connect_and_preflight(migration);
    build(migration);
    precopy(migration);
    hand_over(migration);
  } catch (const Error& error) {
    end_badly(migration, error);
  } catch (const std::exception& error) {
    end_badly(migration, Error(error.what()));
  }
  const State state = migration.machine.state();
  if (state == State::kCompleted || state == State::kPostCopy) finish(migration);
  if (tries_left > 0 && is_worth_another_try(migration)) return std::nullopt;
  finish_report(migration);
  return std::move(migration.report);
}

}  // namespace

MigrationReport run_migration(const MigrateOptions& options, Progress& progress) {
  for (int tries_left = kTriesMax - 1;; --tries_left) {
    auto report = try_migration(options, progress, tries_left);
    if (report) return std::move(*report);
  }
}

MigrationReport run_check(const MigrateOptions& options, Progress& progress) {
  Migration migration(options, progress);
  migration.report.command = "check";
  try {
    connect_and_preflight(migration);
  } catch (const Error& error) {
    end_badly(migration, error);
  } catch (const std::exception& error) {
    end_badly(migration, Error(error.what()));
  }
  finish_report(migration);
  return std::move(migration.report);
}

}  // namespace godwit
