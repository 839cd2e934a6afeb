#include "page-server/background_turns.h"

#include <algorithm>
#include <ctime>

#include "common/base/clock.h"

namespace godwit {

std::int64_t BackgroundTurns::wait_ns(std::int64_t now_ns) {
  if (began_ns_ == 0) began_ns_ = now_ns;
  if (stands_back_since_ns_ != 0) stood_back_ns_ += now_ns - stands_back_since_ns_;
  stands_back_since_ns_ = 0;
  const std::int64_t left_ns = answered_ns_ + kCloseNs - now_ns;
  const std::int64_t most_ns = kStandBackNs + (now_ns - began_ns_) / kStandBackPart;
  if (left_ns <= 0 || stood_back_ns_ >= most_ns) return 0;
  stands_back_since_ns_ = now_ns;
  return std::min(left_ns, most_ns - stood_back_ns_);
}

void BackgroundTurns::take() {
  while (const std::int64_t wait = wait_ns(monotonic_ns())) {
    const timespec time{0, wait};
    clock_nanosleep(CLOCK_MONOTONIC, 0, &time, nullptr);
  }
}

}  // namespace godwit
