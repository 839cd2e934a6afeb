// Stopping every thread of a process, and letting it go.
#include <fmt/format.h>
#include <sched.h>
#include <sys/stat.h>
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
constexpr std::size_t kManyThreads = 32;
constexpr std::int64_t kStopUs = 4;  // of one among many

}  // namespace

void RemoteTask::State::try_seize_thread(pid_t tid, bool interrupt) {
  try {
    threads.push_back(Tracee::seize(tid, skeleton));
    if (interrupt) threads.back().interrupt();
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

bool RemoteTask::State::seize_new_threads(bool interrupt) {
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
    if (!known.contains(tid)) try_seize_thread(tid, interrupt);
  }
  return threads.size() != before;
}

void RemoteTask::State::remove_gone() {
  std::erase_if(threads, [](const Tracee& thread) { return thread.gone(); });
}

// The links of the folder are one for each thread and two of its own (proc_pid_task(5)). As many
// as stand still here: nobody is left who could make another. A list takes a hundred times longer.
bool RemoteTask::State::has_all_threads() const {
  struct stat folder {};
  const std::string path = fmt::format("/proc/{}/task", pid);
  return ::stat(path.c_str(), &folder) == 0 && folder.st_nlink == threads.size() + 2;
}

// Each has to run for a moment to stop. What those have to say that stand still is read while
// others get there; then many need our processor as well: we would only take it from them, one
// after the other.
void RemoteTask::State::wait_all_stopped() {
  for (Tracee& thread : threads) thread.try_wait_stopped();
  for (std::size_t at = 0; at < threads.size(); ++at) {
    const std::size_t left = threads.size() - at;
    threads[at].wait_stopped(left > kManyThreads ? static_cast<std::int64_t>(left) * kStopUs : 0);
  }
}

void RemoteTask::State::stop_all() {
  for (Tracee& thread : threads) thread.interrupt();  // seized already
  if (threads.empty()) seize_new_threads(true);
  do {
    wait_all_stopped();
    remove_gone();
  } while (!has_all_threads() && seize_new_threads(true));
  if (threads.empty()) throw Error(fmt::format("process {} has ended", pid), ESRCH);
  if (skeleton) threads.reserve(16384);  // clone_thread() hands out references
}

void RemoteTask::seize() {
  if (!state_->stopped) state_->seize_new_threads(false);
}

void RemoteTask::stop_some(std::span<const pid_t> host_tids) {
  State& state = *state_;
  if (state.stopped || !state.threads.empty()) {
    fail("process {} is stopped already, or about to be", state.pid);
  }
  for (const pid_t tid : host_tids) state.try_seize_thread(tid, true);
  for (Tracee& thread : state.threads) thread.wait_stopped();
  state.remove_gone();
  state.stopped = true;
  state.others_run = true;
  state.site_checked = false;
  state.runner.forget_signals();
}

void RemoteTask::let_run(pid_t host_tid, const std::function<bool()>& enough) {
  State& state = *state_;
  Tracee& thread = thread_by_host_tid(host_tid);
  const std::int64_t start = monotonic_ns();
  thread.resume();
  while (!enough() && monotonic_ns() - start < kRunTimeMaxNs) sched_yield();
  thread.interrupt();
  thread.wait_stopped();
  while (!state.others_run && state.seize_new_threads(true)) {
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

void RemoteTask::State::erase_own_site() {
  if (has_scratch() || runner.code() == 0) return;
  if (site_is_intact(memory, runner.code())) erase_site(memory, runner.code());
  runner.set_code(0);
}

void RemoteTask::State::detach_all() {
  if (has_scratch() && !has_home() && is_frozen(pid)) {
    // Nothing can run in it now. The record stays, and the next agent finds it.
    log_warning("process {} is frozen: {} bytes of scratch stay in it", pid, record.scratch_bytes);
  } else if (has_scratch() && !has_home()) {
    unmap_scratch(any_thread());
  }
  for (Tracee& thread : threads) thread.give_back();
  erase_own_site();
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
