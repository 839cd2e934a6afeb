#include "source-agent/capture/process.h"

#include <sys/syscall.h>

#include <algorithm>
#include <chrono>
#include <optional>
#include <span>
#include <thread>

#include "common/base/error.h"
#include "common/base/scope_exit.h"
#include "common/kernel/proc_status.h"
#include "source-agent/capture/credentials.h"
#include "source-agent/capture/filesystem_context.h"
#include "source-agent/capture/process_attributes.h"
#include "source-agent/capture/rlimits.h"
#include "source-agent/capture/signals.h"
#include "source-agent/capture/task_identity.h"
#include "source-agent/capture/threads.h"
#include "source-agent/capture/timers.h"

namespace godwit {

ProcessCapture::ProcessCapture(pid_t host_pid)
    : host_pid_(host_pid), mappings_(host_pid), fd_table_(host_pid) {}

ProcessCapture::~ProcessCapture() = default;

proto::Process ProcessCapture::describe_outside(Unmovable unmovable) {
  const bool leave_out = unmovable == Unmovable::kLeaveOut;
  proto::Process process;
  *process.mutable_identity() = describe_task_identity(host_pid_);
  *process.mutable_mappings() =
      leave_out ? mappings_.describe_movable_areas() : *mappings_.describe_areas(nullptr);
  *process.mutable_fd_table() = fd_table_.describe();
  *process.mutable_credentials() = describe_credentials(fmt::format("/proc/{}", host_pid_));
  *process.mutable_rlimits() = describe_rlimits(host_pid_);
  try {
    *process.mutable_filesystem_context() = describe_filesystem_context(host_pid_);
  } catch (const Refused&) {
    if (!leave_out) throw;
    process.clear_filesystem_context();
  }
  // Of the threads only the ids, which must be free at the destination.
  for (const pid_t tid : list_threads(host_pid_)) {
    const auto status = try_read_proc_status(fmt::format("/proc/{}/task/{}", host_pid_, tid));
    if (status) process.add_threads()->set_tid(status->inner_pid());
  }
  return process;
}

// The process-wide questions go in one batch, with those about memory and descriptors that only the
// process itself can answer.
struct ProcessCapture::Questions {
  explicit Questions(pid_t host_pid, FdTableCapture& fd_table)
      : signals(batch),
        timers(batch, host_pid),
        credentials(batch),
        attributes(batch),
        leader(batch) {
    program_break = batch.add(SYS_brk, {0}, "program break");
    fd_table.ask_close_on_exec(batch);
  }

  SyscallBatch batch;
  SignalsQuery signals;
  TimersQuery timers;
  CredentialsQuery credentials;
  ProcessAttributesQuery attributes;
  ThreadQuery leader;
  RowResult program_break;
  std::optional<BatchOutcome> outcome;
};

void ProcessCapture::ask(RemoteTask& task) {
  asked_ = std::make_unique<Questions>(host_pid_, fd_table_);
  asked_->outcome = task.run(asked_->batch);
}

// What is not memory and not descriptors.
void ProcessCapture::describe_state(RemoteTask& task, proto::Process& process) {
  CaptureContext context{task, host_pid_};
  if (!asked_) ask(task);
  const std::unique_ptr<Questions> asked = std::move(asked_);
  const BatchOutcome& outcome = *asked->outcome;
  *process.mutable_identity() = describe_task_identity(host_pid_);
  asked->signals.read(outcome, *process.mutable_signals());
  capture_shared_pending(context, *process.mutable_signals());
  asked->timers.read(outcome, *process.mutable_timers());
  asked->credentials.read(outcome, host_pid_, *process.mutable_credentials());
  asked->attributes.read(outcome, host_pid_, *process.mutable_attributes());
  process.mutable_mappings()->mutable_marks()->set_brk(
      static_cast<std::uint64_t>(outcome[asked->program_break]));
  fd_table_.read_close_on_exec(outcome);
  leader_ = read_answer(asked->leader, outcome, task.leader());
  *process.mutable_rlimits() = describe_rlimits(host_pid_);
  *process.mutable_filesystem_context() = describe_filesystem_context(host_pid_);
}

void ProcessCapture::describe_threads(CaptureContext& context, const KnownThreads& known,
                                      proto::Process& process) {
  process.mutable_threads()->Reserve(static_cast<int>(context.task.threads().size()));
  moved_threads_.clear();
  for (proto::Thread& thread : capture_threads_again(context, blocked_calls_, known)) {
    if (!thread.as_before()) moved_threads_.insert(thread.host_tid());
    process.mutable_threads()->Add(std::move(thread));
  }
  ask_ended_timers_again(context, process);
}

proto::Process ProcessCapture::describe(RemoteTask& task) {
  CaptureContext context{task, host_pid_};
  proto::Process process;
  const std::shared_ptr<const proto::Mappings> mappings = mappings_.describe_areas(&task);
  describe_state(task, process);
  describe_threads(context, {}, process);
  const std::uint64_t program_break = process.mappings().marks().brk();
  process.clear_mappings();
  last_ = process;
  leave_out_registers(last_);
  *process.mutable_mappings() = *mappings;
  process.mutable_mappings()->mutable_marks()->set_brk(program_break);
  return process;
}

proto::Process ProcessCapture::describe_running(RemoteTask& task) {
  mappings_.describe_areas(&task);
  proto::Process process = last_;
  *process.mutable_fd_table() = fd_table_.describe(FdDepth::kAhead);
  return process;
}

void ProcessCapture::refresh() {
  mappings_.refresh_flags();
  fd_table_.refresh();
}

void ProcessCapture::observe_calls() { blocked_calls_.observe(host_pid_); }

void ProcessCapture::watch_stops(RemoteTask& task) {
  task.watch_stops(
      [this] {
        if (!blocked_calls_.has_observed()) blocked_calls_.observe(host_pid_);
      },
      [this, &task] { blocked_calls_.note_stop(task); });
}

// One that is awake may hold what the others wait for: none is kept for long.
void ProcessCapture::stop_in_turn(RemoteTask& task, std::span<const pid_t> host_tids,
                                  const std::function<void(CaptureContext&)>& look) {
  constexpr std::size_t kAtOnce = 12;
  CaptureContext context{task, host_pid_};
  for (std::size_t at = 0; at < host_tids.size(); at += kAtOnce) {
    const auto some = host_tids.subspan(at, std::min(kAtOnce, host_tids.size() - at));
    blocked_calls_.observe(host_pid_, some);
    task.stop_some(some);
    const ScopeExit go_on([&] { task.resume(); });
    blocked_calls_.note_stop_of_some(task);
    try {
      look(context);
    } catch (const Error& error) {
      // One has ended, with others or by execve(2). Whoever is not known is asked in the end.
      if (error.code() != ESRCH) throw;
    }
  }
}

proto::Streams ProcessCapture::look_at_streams(RemoteTask& task) {
  constexpr std::size_t kThreadsMax = 100;  // more take longer to stop than the look does
  constexpr std::size_t kAtOnce = 64;
  constexpr std::chrono::milliseconds kBetweenStops(1);
  proto::Streams out;
  const std::vector<int> all = fd_table_.streams_to_look_at();
  if (all.empty() || list_threads(host_pid_).size() > kThreadsMax) return out;
  for (std::size_t at = 0; at < all.size(); at += kAtOnce) {
    if (at > 0) std::this_thread::sleep_for(kBetweenStops);
    task.stop();
    const ScopeExit go_on([&] { task.resume(); });
    fd_table_.look_at_streams(std::span(all).subspan(at, std::min(kAtOnce, all.size() - at)), out);
  }
  return out;
}

void ProcessCapture::look_at_threads(RemoteTask& task) {
  constexpr std::size_t kManyThreads = 32;  // fewer take less time than to wake up a helper
  const std::vector<pid_t> host_tids = list_threads(host_pid_);
  may_have_changed_.reset();  // its helper looks at them
  known_threads_.clear();
  if (host_tids.size() > kManyThreads) may_have_changed_ = SharedList<char>::try_make();
  stop_in_turn(task, host_tids, [this](CaptureContext& context) {
    godwit::look_at_threads(context, blocked_calls_, known_threads_);
  });
}

void ProcessCapture::follow_threads(RemoteTask& task, int stops) {
  constexpr std::size_t kFew = 8;
  std::size_t before = SIZE_MAX;
  for (;;) {
    std::vector<pid_t> awake;
    for (auto& [tid, known] : known_threads_) {
      if (!known.watch.follow(stops)) awake.push_back(tid);
    }
    if (awake.size() <= kFew || awake.size() > before / 2) return;
    before = awake.size();
    stop_in_turn(task, awake, [this](CaptureContext& context) {
      look_at_threads_again(context, known_threads_);
    });
    stops = 0;
  }
}

proto::Process ProcessCapture::describe_final(RemoteTask& task, proto::Mappings mappings) {
  CaptureContext context{task, host_pid_};
  proto::Process process;
  process.mutable_mappings()->Swap(&mappings);
  describe_state(task, process);
  describe_threads(context, known_threads_, process);
  *process.mutable_fd_table() = fd_table_.describe_final();
  return process;
}

// The threads' registers are compared by themselves, while this is under way: of one that has moved
// nothing can be said without asking it.
void ProcessCapture::begin_to_confirm() {
  to_confirm_.clear();
  for (const auto& [tid, known] : known_threads_) to_confirm_.push_back(&known);
  if (may_have_changed_) {
    may_have_changed_->begin(to_confirm_.size(), [this](std::size_t at, SharedList<char>::Party) {
      return static_cast<char>(to_confirm_[at]->watch.may_have_changed());
    });
  }
  fd_table_.begin_to_compare();
}

void ProcessCapture::confirm(RemoteTask& task) {
  CaptureContext context{task, host_pid_};
  fd_table_.confirm(task);
  std::set<pid_t> asked = moved_threads_;
  std::vector<char> changed;
  if (may_have_changed_) changed = may_have_changed_->finish();
  for (std::size_t i = 0; i < to_confirm_.size(); ++i) {
    const KnownThread& known = *to_confirm_[i];
    const bool may_have = may_have_changed_ ? changed.at(i) != 0 : known.watch.may_have_changed();
    if (may_have) asked.insert(known.thread.host_tid());
  }
  confirm_threads(context, known_threads_, asked, leader_.value());
}

proto::Process describe_process(CaptureContext& context) {
  ProcessCapture capture(context.host_pid);
  proto::Process process = capture.describe(context.task);
  *process.mutable_fd_table() = capture.fd_table().describe_stopped(&context.task);
  return process;
}

void preflight_process_kinds(pid_t host_pid, Findings& findings) {
  preflight_threads(host_pid, findings);
  preflight_mappings(host_pid, findings);
  preflight_fd_table(host_pid, findings);
  preflight_timers(host_pid, findings);
  preflight_credentials(host_pid, findings);
  preflight_filesystem_context(host_pid, findings);
  preflight_process_attributes(host_pid, findings);
}

}  // namespace godwit
