// Stopping every thread of a process, and letting it go.
#include <fmt/format.h>
#include <sched.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <unordered_set>

#include "common/base/clock.h"
#include "common/base/error.h"
#include "common/base/log.h"
#include "common/kernel/pidfd.h"
#include "common/kernel/proc_status.h"
#include "common/remote/remote_task_state.h"

namespace godwit {
namespace {

constexpr std::int64_t kRunTimeMaxNs = 3'000'000;

}  // namespace

void RemoteTask::State::try_seize_thread(pid_t tid) {
  try {
    threads.push_back(Tracee::seize(tid, skeleton));
    threads.back().interrupt();
    return;
  } catch (const Error& error) {
    if (error.code() == ESRCH) return;
    const auto status = try_read_proc_status(fmt::format("/proc/{}/task/{}", pid, tid));
    if (!status || status->state == 'Z' || status->state == 'X') return;  // it is exiting
    const auto self = static_cast<pid_t>(syscall(SYS_gettid));
    if (error.code() == EPERM && skeleton && status->tracer == self) {
      threads.push_back(Tracee::adopt(tid));
      return;
    }
    if (status->tracer != 0) {
      throw Error(fmt::format("thread {} of process {} is traced by {}", tid, pid, status->tracer),
                  EPERM, "end the debugger or tracer first");
    }
    throw error.in(fmt::format("process {}", pid));
  }
}

bool RemoteTask::State::seize_new_threads() {
  std::unordered_set<pid_t> known;
  for (const Tracee& thread : threads) known.insert(thread.tid());
  const std::size_t before = threads.size();
  std::vector<pid_t> now;
  try {
    now = list_threads(pid);
  } catch (const Error& error) {
    if (error.code() != ENOENT && error.code() != ESRCH) throw;  // it has ended
  }
  for (const pid_t tid : now) {
    if (!known.contains(tid)) try_seize_thread(tid);
  }
  return threads.size() != before;
}

void RemoteTask::State::remove_gone() {
  std::erase_if(threads, [](const Tracee& thread) { return thread.gone(); });
}

void RemoteTask::State::stop_all() {
  for (Tracee& thread : threads) thread.interrupt();  // a skeleton's, which stay with us
  while (seize_new_threads()) {
    for (Tracee& thread : threads) thread.wait_stopped();
  }
  for (Tracee& thread : threads) thread.wait_stopped();
  remove_gone();
  if (threads.empty()) throw Error(fmt::format("process {} has ended", pid), ESRCH);
  if (skeleton) threads.reserve(16384);  // clone_thread() hands out references
}

void RemoteTask::let_run(pid_t host_tid, const std::function<bool()>& enough) {
  State& state = *state_;
  Tracee& thread = thread_by_host_tid(host_tid);
  const std::int64_t start = monotonic_ns();
  thread.resume();
  while (!enough() && monotonic_ns() - start < kRunTimeMaxNs) sched_yield();
  thread.interrupt();
  thread.wait_stopped();
  while (state.seize_new_threads()) {
    for (Tracee& one : state.threads) one.wait_stopped();
  }
  state.remove_gone();
  if (state.threads.empty()) throw Error(fmt::format("process {} has ended", state.pid), ESRCH);
  state.runner.forget_signals();
}

Tracee& RemoteTask::State::any_thread() {
  for (Tracee& thread : threads) {
    if (thread.stopped() && !thread.gone()) return thread;
  }
  fail("process {} has no stopped thread", pid);
}

void RemoteTask::State::detach_all() {
  if (has_scratch() && !has_home() && is_frozen(pid)) {
    // Nothing can run in it now. The record stays, and the next agent finds it.
    log_warning("process {} is frozen: {} bytes of scratch stay in it", pid, record.scratch_bytes);
  } else if (has_scratch() && !has_home()) {
    unmap_scratch(any_thread());
  }
  for (Tracee& thread : threads) thread.give_back();
  if (!has_scratch() && runner.code() != 0 && site_is_intact(memory, runner.code())) {
    erase_site(memory, runner.code());
  }
  for (Tracee& thread : threads) thread.detach();
  threads.clear();
  stopped = false;
}

void RemoteTask::State::kill() noexcept {
  try {
    try_send_signal(pidfd, SIGKILL);
    // The leader last: its end is reported when nobody else is left.
    for (auto thread = threads.rbegin(); thread != threads.rend(); ++thread) {
      int status = 0;
      while (!thread->gone()) thread->try_wait(0, &status);
    }
  } catch (const std::exception& error) {
    log_warning("ending process {}: {}", pid, error.what());
  }
  threads.clear();
}

bool RemoteTask::reap_killed() noexcept {
  bool left = false;
  try {
    for (Tracee& thread : state_->threads) {
      int status = 0;
      if (!thread.gone()) thread.try_wait(WNOHANG, &status);
      left = left || !thread.gone();
    }
  } catch (const std::exception& error) {
    log_warning("ending process {}: {}", state_->pid, error.what());
  }
  return !left;
}

}  // namespace godwit
