#include "common/remote/remote_task.h"

#include <fmt/format.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>

#include "common/base/error.h"
#include "common/base/log.h"
#include "common/kernel/pidfd.h"
#include "common/kernel/proc_status.h"
#include "common/remote/remote_task_state.h"

namespace godwit {

RemoteTask::State::State(pid_t host_pid, bool is_skeleton)
    : pid(host_pid),
      skeleton(is_skeleton),
      expendable(is_skeleton),
      pidfd(open_pidfd(host_pid)),
      memory(host_pid),
      runner(host_pid, memory) {}

RemoteTask::RemoteTask(std::unique_ptr<State> state) : state_(std::move(state)) {}
RemoteTask::RemoteTask(RemoteTask&&) noexcept = default;

RemoteTask& RemoteTask::operator=(RemoteTask&& other) noexcept {
  if (this == &other) return *this;
  std::destroy_at(this);
  return *std::construct_at(this, std::move(other));
}

RemoteTask::~RemoteTask() {
  if (!state_) return;
  if (state_->expendable) {
    state_->kill();
    return;
  }
  // reap_killed() has seen the end of all: nothing is held any more.
  const auto gone = [](const Tracee& thread) { return thread.gone(); };
  if (std::all_of(state_->threads.begin(), state_->threads.end(), gone)) return;
  try {
    detach();
  } catch (const std::exception& error) {
    log_warning("letting go of process {}: {}", state_->pid, error.what());
  }
}

RemoteTask RemoteTask::attach(pid_t host_pid) {
  const ProcStatus status = read_proc_status(host_pid);
  if (status.tracer != 0) {
    throw Error(fmt::format("process {} is traced by process {}", host_pid, status.tracer), EPERM,
                "end the debugger or tracer first");
  }
  return RemoteTask(std::make_unique<State>(host_pid, false));
}

pid_t RemoteTask::host_pid() const { return state_->pid; }
bool RemoteTask::stopped() const { return state_->stopped; }
std::vector<Tracee>& RemoteTask::threads() { return state_->threads; }
int RemoteTask::memory_fd() const { return state_->memory.fd(); }
const UniqueFd& RemoteTask::pidfd() const { return state_->pidfd; }

Tracee& RemoteTask::leader() {
  if (!state_->stopped || state_->threads.empty()) fail("process {} is not stopped", state_->pid);
  return state_->threads.front();
}

Tracee& RemoteTask::thread_by_host_tid(pid_t tid) {
  for (Tracee& thread : state_->threads) {
    if (thread.tid() == tid) return thread;
  }
  fail("process {} has no thread {}", state_->pid, tid);
}

void RemoteTask::stop() {
  State& state = *state_;
  if (state.stopped) return;
  if (state.before_stop) state.before_stop();
  state.stop_all();
  state.stopped = true;
  state.site_checked = false;
  state.runner.forget_signals();
  if (!state.seen_before) state.take_over_sites();
  state.seen_before = true;
  if (state.after_stop) state.after_stop();
}

void RemoteTask::watch_stops(std::function<void()> before, std::function<void()> after) {
  state_->before_stop = std::move(before);
  state_->after_stop = std::move(after);
}

void RemoteTask::resume() {
  State& state = *state_;
  if (!state.stopped) return;
  if (state.skeleton) {
    for (Tracee& thread : state.threads) thread.resume();
  } else {
    // Let go rather than continued: a traced thread would stop at every signal.
    for (Tracee& thread : state.threads) thread.detach();
    state.threads.clear();
  }
  state.stopped = state.others_run = false;
}

BatchOutcome RemoteTask::run(const SyscallBatch& batch) { return run_on(leader(), batch); }

BatchOutcome RemoteTask::run(const SyscallBatch& batch, std::function<void()> meanwhile) {
  Tracee& thread = leader();
  state_->runner.do_meanwhile(std::move(meanwhile));
  return run_on(thread, batch);
}

BatchOutcome RemoteTask::run_on(Tracee& thread, const SyscallBatch& batch) {
  BatchOutcome outcome = state_->run(thread, batch);
  if (!outcome.complete()) state_->throw_failed_row(thread, batch, outcome);
  return outcome;
}

BatchOutcome RemoteTask::try_run(const SyscallBatch& batch) { return state_->run(leader(), batch); }

void RemoteTask::read_memory(Address from, std::span<std::byte> to) const {
  state_->memory.read(from, to);
}

void RemoteTask::write_memory(Address to, std::span<const std::byte> from) {
  state_->memory.write(to, from);
}

UniqueFd RemoteTask::copy_fd(int task_fd) const {
  return in_context([&] { return copy_fd_of(state_->pidfd, task_fd); }, "process {}", state_->pid);
}

bool RemoteTask::is_scratch(const PageRange& range) const {
  const auto within = [&](std::uint64_t start, std::uint64_t bytes) {
    return bytes != 0 && range.start >= start && range.end <= start + bytes;
  };
  const SiteRecord& record = state_->record;
  return within(record.scratch_start, record.scratch_bytes) ||
         within(record.home_start, record.home_bytes);
}

void RemoteTask::unmap_scratch() {
  if (state_->stopped && state_->has_scratch() && !state_->has_home()) {
    state_->unmap_scratch(state_->any_thread());
  }
}

void RemoteTask::detach() {
  State& state = *state_;
  state.before_stop = state.after_stop = nullptr;
  const bool touched = state.runner.code() != 0;
  try {
    if (!state.stopped && (touched || state.skeleton || !state.threads.empty())) stop();
    if (state.stopped) state.detach_all();
  } catch (const Error& error) {
    if (error.code() != ESRCH && error.code() != ENOENT) throw;
    log_debug("process {} had ended: {}", state.pid, error.what());
  }
  state_.reset();
}

}  // namespace godwit
