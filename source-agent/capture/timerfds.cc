#include "source-agent/capture/timerfds.h"

#include <sys/timerfd.h>
#include <time.h>

#include "common/base/clock.h"

namespace godwit {
namespace {

// What is further apart from the clock's reading would shift the timer's phase with each move.
constexpr std::int64_t kApartNsMax = 20'000;
constexpr int kTriesMax = 5;
// How late the interrupt of an expiration may be, on another processor that is held up.
constexpr std::int64_t kInterruptLateNsMax = 5'000'000;

TimerFdLines read_lines(const FdFacts& facts, const ProcFdDirectory& directory) {
  const auto info = directory.info(facts.fd);
  if (!info || !info->timer) fail("{} was replaced while it was described", facts.name());
  return *info->timer;
}

// Just expired, a timer's remaining time is used up, but the count follows in the interrupt: until
// then it looks as if it were disarmed. What has a period, or had time left a moment ago, is not.
TimerFdLines wait_for_count(TimerFdLines lines, const FdFacts& facts,
                            const ProcFdDirectory& directory) {
  const auto undecided = [&] { return lines.value_ns == 0 && lines.ticks == 0; };
  if (undecided()) lines = read_lines(facts, directory);
  const bool was_armed = lines.interval_ns != 0 || facts.info.timer->value_ns != 0;
  if (!was_armed) return lines;
  const std::int64_t late_ns = monotonic_ns() + kInterruptLateNsMax;
  while (undecided() && monotonic_ns() < late_ns) lines = read_lines(facts, directory);
  return lines;
}

}  // namespace

bool is_timerfd(const FdFacts& facts) { return facts.is_anonymous("[timerfd]"); }

proto::TimerFd capture_timerfd(const FdFacts& facts, const ProcFdDirectory& directory,
                               const TimeOffsets& offsets, Findings& findings) {
  if (!facts.info.timer) fail("{}: fdinfo has no timer", facts.name());
  proto::TimerFd out;
  TimerFdLines lines = *facts.info.timer;
  out.set_clock(lines.clock);
  if ((lines.set_flags & ~(TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET)) != 0) {
    refuse(findings, "fd-timerfd-flags", facts.name(),
           fmt::format("unknown timer flags {:#x}", lines.set_flags), "disarm the timer");
  }
  if (!facts.copy.valid()) return out;
  std::int64_t now_ns = 0;
  for (int tries_left = kTriesMax; tries_left > 0; --tries_left) {
    // Counts the periods that are over, and starts the one that runs.
    itimerspec unused{};
    if (timerfd_gettime(facts.copy.get(), &unused) != 0) {
      throw_system("read the time of {}", facts.name());
    }
    now_ns = clock_with_offsets(lines.clock, offsets);
    lines = read_lines(facts, directory);
    const std::int64_t took_ns = clock_with_offsets(lines.clock, offsets) - now_ns;
    lines = wait_for_count(lines, facts, directory);
    const bool expired_meanwhile = lines.interval_ns != 0 && lines.value_ns <= took_ns &&
                                   (lines.value_ns != 0 || lines.ticks != 0);
    if (took_ns < kApartNsMax && !expired_meanwhile) break;
  }
  // Its period is shorter than a look at it: it goes on from here.
  if (lines.value_ns == 0 && lines.interval_ns != 0 && lines.ticks != 0) {
    lines.value_ns = lines.interval_ns;
  }
  // The destination names the moment to a steady clock either way.
  const auto way = is_steady_clock(lines.clock) ? TFD_TIMER_ABSTIME : 0;
  out.set_set_flags(lines.set_flags & ~static_cast<std::uint32_t>(way));
  out.set_expirations(lines.ticks);
  out.set_remaining_ns(lines.value_ns);
  out.set_interval_ns(lines.interval_ns);
  if (lines.value_ns != 0) out.set_deadline_ns(now_ns + lines.value_ns);
  return out;
}

}  // namespace godwit
