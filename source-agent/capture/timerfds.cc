#include "source-agent/capture/timerfds.h"

#include <sys/timerfd.h>
#include <time.h>

#include "common/base/clock.h"

namespace godwit {
namespace {

// The timer's clock as the process sees it, now.
std::int64_t process_clock_ns(int clock, const TimeOffsets& offsets) {
  switch (clock) {
    case CLOCK_MONOTONIC:
      return clock_ns(CLOCK_MONOTONIC) + offsets.monotonic_ns;
    case CLOCK_BOOTTIME:
    case CLOCK_BOOTTIME_ALARM:
      return clock_ns(CLOCK_BOOTTIME) + offsets.boottime_ns;
    default:
      return clock_ns(CLOCK_REALTIME);
  }
}

TimerFdLines read_lines(const FdFacts& facts, const ProcFdDirectory& directory) {
  const auto info = directory.info(facts.fd);
  if (!info || !info->timer) fail("{} was replaced while it was described", facts.name());
  return *info->timer;
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
  itimerspec unused{};
  if (timerfd_gettime(facts.copy.get(), &unused) != 0)
    throw_system("read the time of {}", facts.name());
  const std::int64_t now_ns = process_clock_ns(lines.clock, offsets);
  lines = read_lines(facts, directory);
  // Just expired: the remaining time is used up, but the count follows in the interrupt.
  if (lines.value_ns == 0 && lines.ticks == 0) lines = read_lines(facts, directory);
  out.set_set_flags(lines.set_flags);
  out.set_expirations(lines.ticks);
  out.set_remaining_ns(lines.value_ns);
  out.set_interval_ns(lines.interval_ns);
  if (lines.value_ns != 0) out.set_deadline_ns(now_ns + lines.value_ns);
  return out;
}

}  // namespace godwit
