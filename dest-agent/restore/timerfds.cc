#include "dest-agent/restore/timerfds.h"

#include <fmt/format.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <time.h>

#include <algorithm>
#include <cstdlib>
#include <utility>

#include "common/base/clock.h"

namespace godwit {
namespace {

constexpr unsigned long kSetTicks = 0x40085400;  // TFD_IOC_SET_TICKS of <linux/timerfd.h>
// A timer must not expire between being armed and being given its count of expirations.
constexpr std::int64_t kArmingTimeNs = 200'000;
// Clocks of source and destination that are further apart are not the same clock.
constexpr std::int64_t kClockLeapNs = 60'000'000'000;

timespec to_timespec(std::int64_t ns) {
  return {static_cast<time_t>(ns / 1'000'000'000), static_cast<long>(ns % 1'000'000'000)};
}

}  // namespace

RowResult append_timerfd(SyscallBatch& batch, const proto::OpenFile& file) {
  return batch.add(SYS_timerfd_create, {file.timerfd().clock(), TFD_CLOEXEC},
                   fmt::format("fd {}: timerfd", file.id()));
}

TimerSetting timer_setting(const proto::TimerFd& want, std::int64_t now_ns) {
  TimerSetting out;
  out.flags = want.set_flags();
  out.interval_ns = want.interval_ns();
  out.ticks = want.expirations();
  if (want.remaining_ns() == 0) {
    out.flags &= ~TFD_TIMER_CANCEL_ON_SET;
    return out;
  }
  // Counted from now, it would come later by what it takes to say so.
  const bool steady = is_steady_clock(want.clock());
  if (steady) out.flags |= TFD_TIMER_ABSTIME;
  std::int64_t left_ns = want.deadline_ns() - now_ns;
  const bool leaps = std::llabs(left_ns - want.remaining_ns()) > kClockLeapNs;
  if (leaps) left_ns = want.remaining_ns();
  if ((out.flags & TFD_TIMER_ABSTIME) != 0 && out.ticks == 0) {
    // The kernel counts what is overdue.
    out.value_ns = steady && leaps ? now_ns + left_ns : want.deadline_ns();
    return out;
  }
  const std::int64_t soonest_ns = out.ticks > 0 ? kArmingTimeNs : 1;
  if (left_ns < soonest_ns && out.interval_ns > 0) {
    const std::int64_t missed = left_ns > 0 ? 1 : -left_ns / out.interval_ns + 1;
    out.ticks += static_cast<std::uint64_t>(missed);
    left_ns += missed * out.interval_ns;
  }
  left_ns = std::max(left_ns, out.ticks > 0 ? kArmingTimeNs : 1);
  out.value_ns = (out.flags & TFD_TIMER_ABSTIME) != 0 ? now_ns + left_ns : left_ns;
  return out;
}

namespace {

// When it expires; 0 when nothing can go wrong with it.
std::int64_t append_arming(SyscallBatch& batch, int fd, const proto::TimerFd& want,
                           const TimeOffsets& offsets) {
  const std::int64_t now_ns = clock_with_offsets(want.clock(), offsets);
  const TimerSetting setting = timer_setting(want, now_ns);
  const std::string name = fmt::format("fd {}: timerfd", fd);
  if (setting.value_ns != 0 || setting.interval_ns != 0 || setting.flags != 0) {
    itimerspec value{};
    value.it_value = to_timespec(setting.value_ns);
    value.it_interval = to_timespec(setting.interval_ns);
    const DataAt at = batch.put_value(value);
    batch.add(SYS_timerfd_settime, {fd, setting.flags, at, 0}, name);
  }
  if (setting.ticks == 0) return 0;
  const DataAt ticks = batch.put_value<std::uint64_t>(setting.ticks);
  batch.add(SYS_ioctl, {fd, kSetTicks, ticks}, name);
  if (setting.value_ns == 0) return 0;
  const bool absolute = (setting.flags & TFD_TIMER_ABSTIME) != 0;
  return absolute ? setting.value_ns : now_ns + setting.value_ns;
}

}  // namespace

void arm_timerfds(RemoteTask& task, std::vector<const proto::OpenFile*> files,
                  const TimeOffsets& offsets) {
  constexpr std::size_t kTimersPerBatch = 4000;
  constexpr int kTurnsMax = 5;  // the period may be shorter than a turn
  for (int turn = 0; turn < kTurnsMax && !files.empty(); ++turn) {
    std::vector<const proto::OpenFile*> again;
    for (std::size_t at = 0; at < files.size(); at += kTimersPerBatch) {
      SyscallBatch batch;
      std::vector<std::pair<const proto::OpenFile*, std::int64_t>> watched;
      const std::size_t end = std::min(files.size(), at + kTimersPerBatch);
      for (std::size_t i = at; i < end; ++i) {
        const int fd = static_cast<int>(files[i]->id());
        const auto expires_ns = append_arming(batch, fd, files[i]->timerfd(), offsets);
        if (expires_ns != 0) watched.emplace_back(files[i], expires_ns);
      }
      if (!batch.empty()) task.run(batch);
      // An expiration before the count was set is lost under it.
      for (const auto& [file, expires_ns] : watched) {
        const bool passed = clock_with_offsets(file->timerfd().clock(), offsets) >= expires_ns;
        if (passed) again.push_back(file);
      }
    }
    files = std::move(again);
  }
}

}  // namespace godwit
