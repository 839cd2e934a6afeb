#include "common/kernel/precedence.h"

#include <unistd.h>

#include "common/kernel/proc_status.h"

namespace godwit {

Precedence::Precedence() noexcept {
  threads_.reserve(1);
  give(::gettid());
}

Precedence::Precedence(pid_t process) {
  for (const pid_t thread : list_threads(process)) give(thread);
}

Precedence::Precedence(OfThread thread) {
  const int policy = ::sched_getscheduler(thread.tid) & ~SCHED_RESET_ON_FORK;
  if (policy == SCHED_OTHER || policy == SCHED_BATCH || policy == SCHED_IDLE) give(thread.tid);
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
  }
}

bool has_precedence() noexcept {
  return ::sched_getscheduler(0) == (SCHED_FIFO | SCHED_RESET_ON_FORK);
}

}  // namespace godwit
