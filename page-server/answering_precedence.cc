#include "page-server/answering_precedence.h"

#include <time.h>
#include <unistd.h>

#include "common/base/clock.h"
#include "common/kernel/precedence.h"
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

AnsweringPrecedence::AnsweringPrecedence(PageServiceLink& link)
    : link_(link), since_ns_(monotonic_ns()), worked_ns_(thread_ns()) {
  take_short_turns(false);
  ask(true);
}

void AnsweringPrecedence::ask(bool precedence) {
  proto::PageReport report;
  report.mutable_answering_thread()->set_thread(::gettid());
  report.mutable_answering_thread()->set_precedence(precedence);
  link_.send(report);
  asked_ = precedence;
}

void AnsweringPrecedence::look() {
  const std::int64_t now = monotonic_ns();
  if (now - since_ns_ < kLookEveryNs) return;
  const std::int64_t worked = thread_ns();
  const bool busy = worked - worked_ns_ > (now - since_ns_) / 2;
  since_ns_ = now;
  worked_ns_ = worked;
  // It may have been taken back by who gave it to all threads for a while.
  if (busy ? asked_ : !has_precedence()) ask(!busy);
}

}  // namespace godwit
