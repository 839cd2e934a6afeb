// Back to a task that runs on this host, from wherever the migration had come; and what to do when
// it is not known whether that is allowed.
#include <unistd.h>

#include <map>

#include "common/base/clock.h"
#include "common/base/log.h"
#include "source-agent/checkpoint.h"
#include "source-agent/destination.h"
#include "source-agent/migration.h"

namespace godwit {
namespace {

constexpr std::int64_t kAbortTimeoutNs = 1'000'000'000;
constexpr std::int64_t kDoubtTimeoutNs = 60'000'000'000;
constexpr std::int64_t kAskTimeoutNs = 10'000'000'000;
constexpr int kAskAgainMs = 500;

// One duty of the way back; the next is done whatever becomes of it.
template <typename Duty>
void attempt(const char* what, Duty duty) noexcept {
  try {
    duty();
  } catch (const std::exception& error) {
    log_error("rolling back: {}: {}", what, error.what());
  }
}

// Whatever broke here, the destination's own story is the better one, and may be on its way. The
// destination listens for ours in the same way, for longer: so one of the two is told.
void hear_destination(Migration& migration) {
  constexpr std::int64_t kPatienceNs = 250'000'000;
  if (!migration.control || migration.peer_aborted || cancel_requested() != 0) return;
  const std::int64_t deadline_ns = monotonic_ns() + kPatienceNs;
  try {
    for (;;) {
      const auto envelope = migration.control->try_receive(deadline_ns);
      if (!envelope) return;
      migration.control->check_not_aborted(*envelope);
    }
  } catch (const PeerAborted& aborted) {
    migration.peer_aborted = true;
    migration.report.error = describe_error(aborted);
  } catch (const Error&) {
    return;  // it says nothing
  }
}

// A destination that has told its story cleans up and hangs up then: whoever begins again finds
// nothing of this migration there.
void await_end_of_destination(Migration& migration) {
  constexpr std::int64_t kPatienceNs = 5'000'000'000;
  if (!migration.control || !migration.peer_aborted) return;
  const std::int64_t deadline_ns = monotonic_ns() + kPatienceNs;
  try {
    while (migration.control->try_receive(deadline_ns)) {
    }
  } catch (const Error& error) {
    if (error.code() == ETIMEDOUT) log_warning("the destination still cleans up: {}", error.what());
  }
}

// Descriptors as they were told to the destination in the blackout.
proto::FdTable described_for_good(const Migration& migration) {
  proto::FdTable described;
  std::map<std::uint32_t, const proto::OpenFile*> ahead;
  for (const proto::Envelope& message : migration.stream_messages) {
    const proto::Streams& streams = message.streams();
    for (const proto::OpenFile& file : streams.files()) {
      if (streams.ahead()) {
        ahead[file.id()] = &file;
      } else {
        *described.add_files() = file;
      }
    }
    for (const std::uint32_t file : streams.as_ahead()) *described.add_files() = *ahead.at(file);
  }
  for (const proto::Process& process : migration.final_message.final().snapshot().processes()) {
    described.MergeFrom(process.fd_table());
  }
  return described;
}

void say_abort(Migration& migration) {
  if (!migration.control || !migration.error || migration.peer_aborted) return;
  proto::Abort abort;
  abort.set_story(migration.error->what());
  migration.control->send_body(abort, monotonic_ns() + kAbortTimeoutNs);
}

}  // namespace

void let_source_run(Migration& migration) noexcept {
  if (!migration.task)
    return;  // it has gone on already, with all that it has, or was not begun with
  // The task first: everything else can wait.
  attempt("thawing", [&] {
    if (migration.group) migration.group->thaw();
  });
  attempt("sockets", [&] {
    if (!migration.network || !migration.capture) return;
    FdTableCapture& fd_table = migration.capture->fd_table();
    migration.network->roll_back(fd_table.sockets(), described_for_good(migration));
    fd_table.give_back();
  });
  attempt("slowed connections", [&] { migration.calm.reset(); });
  attempt("resuming the task", [&] {
    if (migration.task) migration.task->detach();
    migration.task.reset();
  });
}

void give_packets_back(Migration& migration) noexcept {
  attempt("held packets", [&] {
    if (migration.network) migration.network->remove();
  });
}

void roll_back(Migration& migration) noexcept {
  let_source_run(migration);
  give_packets_back(migration);
  migration.progress.loud();
  migration.progress.enter(migration.machine.state());
  attempt("hearing the destination", [&] { hear_destination(migration); });
  attempt("telling the destination", [&] { say_abort(migration); });
  attempt("tracking", [&] {
    if (migration.memory) migration.memory->let_go(migration.options.pid);
    migration.memory.reset();
  });
  attempt("page server", [&] { migration.pages.reset(); });
  attempt("cgroup", [&] {
    if (migration.group) migration.group->give_back();
  });
  attempt("journal", [&] {
    if (!migration.record.cgroup_path.empty()) migration.journal.remove(migration.record);
  });
  attempt("the destination's end", [&] { await_end_of_destination(migration); });
  migration.report.pid_destination = 0;
  attempt("state", [&] { migration.machine.apply(Event::kCleanedUp); });
}

proto::Outcome ask_outcome(const JournalRecord& record, bool settled) {
  if (auto outcome = outcome_of_image(record.peer, record.migration_id)) return *std::move(outcome);
  return ask_outcome(parse_host_port(record.peer), load_keys(record.keys_dir, "source"),
                     record.migration_id, settled);
}

proto::Outcome ask_outcome(const HostPort& peer, const KeyFolder& keys, const std::string& id,
                           bool settled) {
  Channel control = connect_control(peer, keys, id);
  proto::OutcomeRequest request;
  request.set_migration_id(id);
  request.set_settled(settled);
  control.send_body(request, monotonic_ns() + kAskTimeoutNs);
  return control.receive_body<proto::Outcome>(monotonic_ns() + kAskTimeoutNs);
}

void settle_doubt(Migration& migration) noexcept {
  const std::int64_t deadline_ns = monotonic_ns() + kDoubtTimeoutNs;
  migration.progress.loud();
  while (monotonic_ns() < deadline_ns) {
    migration.progress.enter(migration.machine.state());
    try {
      const proto::Outcome outcome = ask_outcome(migration.record);
      if (outcome.kind() == proto::Outcome::COMMITTED) {
        migration.report.pid_destination = outcome.host_pid();
        migration.machine.apply(migration.lazy ? Event::kReleasedEarly : Event::kOutcomeCommitted);
        return;
      }
      if (outcome.kind() == proto::Outcome::UNKNOWN) {
        migration.machine.apply(Event::kOutcomeUnknown);
        return;
      }
      migration.machine.apply(Event::kOutcomeOpen);
    } catch (const std::exception& error) {
      log_warning("in doubt: {}", error.what());
    }
    ::usleep(kAskAgainMs * 1000);
  }
  // The tree stays frozen; the journal tells `migrate recover` whom to ask.
  attempt("journal", [&] { migration.write_journal(); });
  migration.group->keep();
}

}  // namespace godwit
