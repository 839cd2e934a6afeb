// Precedence over all ordinary work of the host, for the milliseconds of a blackout: real-time
// scheduling (sched(7), SCHED_FIFO with the lowest priority). A process that has it is let on at
// once when a message wakes it up, however busy the processors are.
#pragma once

#include <sched.h>

namespace godwit {

// The calling thread has it as long as the object lives; what it starts meanwhile does not. Where
// the host forbids it (no CAP_SYS_NICE, no real-time share for the control group) nothing changes.
class Precedence {
 public:
  Precedence() noexcept;
  Precedence(const Precedence&) = delete;
  Precedence& operator=(const Precedence&) = delete;
  ~Precedence();

 private:
  int policy_;  // as it was
  sched_param param_{};
  bool taken_ = false;
};

}  // namespace godwit
