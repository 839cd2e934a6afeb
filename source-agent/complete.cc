// After the commit: the source's copy goes, packets that still come here are forwarded for a while,
// and nothing of the migration is left.
#include <signal.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "common/base/clock.h"
#include "common/base/log.h"
#include "common/base/scope_exit.h"
#include "common/kernel/precedence.h"
#include "common/kernel/proc_status.h"
#include "common/model/workload.h"
#include "source-agent/checkpoint.h"
#include "source-agent/migration.h"
#include "source-agent/remote_copy.h"

namespace godwit {
namespace {

constexpr int kEndTimeoutMs = 10'000;
constexpr std::int64_t kFinishTimeoutNs = 30'000'000'000;

// Its threads are ours to reap, and packets come in meanwhile.
bool await_end(Migration& migration, int process) {
  constexpr int kTurnMs = 5;
  // Giving back much memory takes its time, in which others must come to run.
  constexpr int kTurnsAlone = kEndTimeoutMs / kTurnMs * 4 / 5;
  std::optional<Precedence> precedence;
  for (int turn = 0; turn < kEndTimeoutMs / kTurnMs; ++turn) {
    // To end, its threads need a processor: on a busy host those that are always last wait long.
    if (turn == kTurnsAlone) precedence.emplace(migration.options.pid);
    if (migration.task->reap_killed()) return true;
    if (migration.network->forward_until(*migration.control, process, kTurnMs)) {
      migration.task->reap_killed();
      return true;
    }
  }
  return false;
}

// Giving back much memory takes a processor for long, and nobody waits for it.
void give_way(pid_t host_pid) {
  constexpr int kLeast = 19;
  for (const pid_t tid : list_threads(host_pid)) {
    ::setpriority(PRIO_PROCESS, static_cast<id_t>(tid), kLeast);
  }
}

// The sockets' duplicates are in repair mode: the last one to be closed says nothing on the wire.
// What is in the group was frozen all the time: its number can't have come to mean another process.
void end_source_copy(Migration& migration) {
  const ScopeExit let_go([&] {
    migration.memory.reset();
    migration.task.reset();
    migration.capture.reset();
  });
  const UniqueFd process(static_cast<int>(::syscall(SYS_pidfd_open, migration.options.pid, 0)));
  if (process.valid() && is_alive(migration.record.process)) {
    give_way(migration.options.pid);
    ::syscall(SYS_pidfd_send_signal, process.get(), SIGKILL, nullptr, 0);
    migration.group->thaw();
    if (!await_end(migration, process.get())) {
      log_warning("pid {} has not ended {} s after SIGKILL", migration.options.pid,
                  kEndTimeoutMs / 1000);
    }
  }
}

// The round that travelled in the blackout.
void report_last_round(Migration& migration) {
  while (migration.sent.round() < migration.round || migration.scanned.round() < migration.round) {
    take_event(migration, monotonic_ns() + kFinishTimeoutNs);
  }
  RoundReport last;
  last.round = migration.sent.round();
  last.pages = migration.sent.pages();
  last.zero_pages = migration.sent.zero_pages();
  last.bytes = migration.sent.bytes();
  last.ns = migration.sent.ns();
  last.scan_ns = migration.scanned.scan_ns();
  last.began_unix_ns = migration.report.frozen_unix_ns;
  add_round(migration.report, last);
}

// The destination may be gone by now; the task is not ours any more either way.
void say_finish(Migration& migration) {
  try {
    migration.control->send_body(proto::Finish{}, monotonic_ns() + kFinishTimeoutNs);
    const auto finished =
        await_envelope(migration, proto::Envelope::kFinished, monotonic_ns() + kFinishTimeoutNs);
    migration.report.verified = migration.options.verify;
    migration.report.verify_differences.assign(finished.finished().differences().begin(),
                                               finished.finished().differences().end());
  } catch (const Error& error) {
    log_warning("the destination did not confirm its end: {}", error.what());
    ask_outcome(migration.record, true);
  }
}

void send_corrections(Migration& migration) {
  const proto::Corrections corrections = migration.capture->fd_table().find_corrections();
  if (corrections.sockets().empty()) return;
  log_info("migration={} {} sockets got options in the last instant", migration.id,
           corrections.sockets_size());
  migration.control->send_body(corrections, monotonic_ns() + kFinishTimeoutNs);
}

// One duty of many: the source's copy goes whatever becomes of the others.
template <typename Duty>
void attempt(const char* what, Duty duty) noexcept {
  try {
    duty();
  } catch (const std::exception& error) {
    log_warning("cleaning up after the migration: {}: {}", what, error.what());
  }
}

}  // namespace

void complete(Migration& migration) {
  if (makes_copy(migration)) {
    attempt("last round", [&] { report_last_round(migration); });
    attempt("saying so", [&] { say_finish(migration); });
  }
  if (migration.options.leave_running) return complete_while_running(migration);
  attempt("addresses", [&] { migration.network->after_commit(*migration.control); });
  attempt("corrections", [&] { send_corrections(migration); });
  attempt("last round", [&] { report_last_round(migration); });
  if (migration.machine.state() == State::kPostCopy) {
    migration.progress.enter(migration.machine.state());
    serve_pages(migration);
  }
  migration.pages_complete = true;
  attempt("the copy here", [&] { end_source_copy(migration); });
  attempt("stragglers", [&] { migration.network->forward_stragglers(*migration.control); });
  attempt("registration",
          [&] { note_departure(migration.record, migration.report.pid_destination); });
  attempt("saying so", [&] { say_finish(migration); });
  attempt("page server", [&] { migration.pages.reset(); });
  attempt("packet rules", [&] { migration.network->remove(); });
  try {
    migration.group->discard();  // never given back: nothing that is left in it may run
    migration.journal.remove(migration.record);
  } catch (const std::exception& error) {
    // The journal stays, from which `migrate recover` ends what could not be ended here.
    log_warning("cleaning up after the migration: {}", error.what());
  }
}

}  // namespace godwit
