#include "common/kernel/precedence.h"

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <utility>

#include "common/base/error.h"
#include "common/base/log.h"
#include "common/base/unique_fd.h"
#include "common/kernel/proc_status.h"

namespace godwit {
namespace {

// proc_pid_timerslack_ns(5): the thread's, though only the folders of processes are listed.
std::string slack_path(pid_t thread) { return fmt::format("/proc/{}/timerslack_ns", thread); }

}  // namespace

Precedence::Precedence() noexcept {
  threads_.reserve(1);
  give(::gettid());
}

Precedence::Precedence(pid_t process) {
  for (const pid_t thread : list_threads(process)) {
    if (::sched_getscheduler(thread) != SCHED_IDLE) give(thread);
  }
}

Precedence::Precedence(OfThread thread) {
  const int policy = ::sched_getscheduler(thread.tid) & ~SCHED_RESET_ON_FORK;
  if (policy != SCHED_OTHER && policy != SCHED_BATCH && policy != SCHED_IDLE) return;
  try {
    std::string slack = read_file(slack_path(thread.tid));
    give(thread.tid);
    if (!threads_.empty()) threads_.front().timer_slack = std::move(slack);
  } catch (const Error& error) {
    log_debug("thread {} is gone: {}", thread.tid, error.what());
  }
}

void Precedence::give(pid_t thread) {
  Before before;
  before.thread = thread;
  before.policy = ::sched_getscheduler(thread);
  if (before.policy < 0 || ::sched_getparam(thread, &before.param) != 0) return;
  const sched_param lowest{::sched_get_priority_min(SCHED_FIFO)};
  if (::sched_setscheduler(thread, SCHED_FIFO | SCHED_RESET_ON_FORK, &lowest) != 0) return;
  threads_.push_back(before);
}

Precedence::~Precedence() {
  for (const Before& before : threads_) {
    ::sched_setscheduler(before.thread, before.policy, &before.param);
    if (before.timer_slack.empty()) continue;
    const UniqueFd file(::open(slack_path(before.thread).c_str(), O_WRONLY | O_CLOEXEC));
    const auto& slack = before.timer_slack;
    if (!file.valid() || ::write(file.get(), slack.data(), slack.size()) < 0) {
      log_debug("timer slack of thread {} is the default one now", before.thread);
    }
  }
}

void lend_precedence(pid_t process, pid_t thread, bool precedence) noexcept {
  std::array<char, 64> path{};
  *fmt::format_to_n(path.data(), path.size() - 1, "/proc/{}/task/{}", process, thread).out = 0;
  if (::access(path.data(), F_OK) != 0) return;
  const sched_param param{precedence ? ::sched_get_priority_min(SCHED_FIFO) : 0};
  ::sched_setscheduler(thread, precedence ? SCHED_FIFO | SCHED_RESET_ON_FORK : SCHED_OTHER, &param);
}

bool has_precedence() noexcept {
  return ::sched_getscheduler(0) == (SCHED_FIFO | SCHED_RESET_ON_FORK);
}

}  // namespace godwit
