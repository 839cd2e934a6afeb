#include "source-agent/session.h"

#include "common/base/clock.h"
#include "common/base/log.h"
#include "source-agent/migration.h"

namespace godwit {
namespace {

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

void finish_report(Migration& migration) {
  const std::int64_t now = monotonic_ns();
  migration.report.total_ns = now - migration.began_ns;
  set_phases(migration.report, migration.machine, now);
}

}  // namespace

MigrationReport run_migration(const MigrateOptions& options, Progress& progress) {
  Migration migration(options, progress);
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
  if (migration.machine.state() == State::kCompleted) complete(migration);
  finish_report(migration);
  return std::move(migration.report);
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
