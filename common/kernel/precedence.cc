#include "common/kernel/precedence.h"

namespace godwit {

Precedence::Precedence() noexcept : policy_(::sched_getscheduler(0)) {
  if (policy_ < 0 || ::sched_getparam(0, &param_) != 0) return;
  const sched_param lowest{::sched_get_priority_min(SCHED_FIFO)};
  taken_ = ::sched_setscheduler(0, SCHED_FIFO | SCHED_RESET_ON_FORK, &lowest) == 0;
}

Precedence::~Precedence() {
  if (taken_) ::sched_setscheduler(0, policy_, &param_);
}

}  // namespace godwit
