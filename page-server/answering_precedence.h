// Precedence for the thread that answers page faults: somebody stands still until it has. As long
// as it mostly waits, that is; when it works most of the time it is one among others.
//
// It rests on RLIMIT_RTPRIO (drop_privileges()); where there is none nothing changes.
#pragma once

#include <cstdint>
#include <optional>

#include "common/kernel/precedence.h"

namespace godwit {

class AnsweringPrecedence {
 public:
  // For the calling thread, which must be the one that calls look() and destroys this.
  AnsweringPrecedence();
  // Between two answers.
  void look();

 private:
  std::optional<Precedence> precedence_;
  std::int64_t since_ns_ = 0;
  std::int64_t worked_ns_ = 0;  // the thread's time on a processor at `since_ns_`
};

}  // namespace godwit
