#include "page-server/answering_precedence.h"

#include <time.h>

#include "common/base/clock.h"
#include "common/kernel/short_turns.h"

namespace godwit {
namespace {

constexpr std::int64_t kLookEveryNs = 50'000'000;

std::int64_t thread_ns() {
  timespec time{};
  ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return time.tv_sec * 1'000'000'000 + time.tv_nsec;
}

}  // namespace

AnsweringPrecedence::AnsweringPrecedence() : since_ns_(monotonic_ns()), worked_ns_(thread_ns()) {
  take_short_turns(false);
  precedence_.emplace();
}

void AnsweringPrecedence::look() {
  const std::int64_t now = monotonic_ns();
  if (now - since_ns_ < kLookEveryNs) return;
  const std::int64_t worked = thread_ns();
  const bool busy = worked - worked_ns_ > (now - since_ns_) / 2;
  since_ns_ = now;
  worked_ns_ = worked;
  if (busy && precedence_) {
    precedence_.reset();
    take_short_turns(false);
  } else if (!busy && !precedence_) {
    precedence_.emplace();
  }
}

}  // namespace godwit
