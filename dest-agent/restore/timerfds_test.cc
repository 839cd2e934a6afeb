#include "dest-agent/restore/timerfds.h"

#include <gtest/gtest.h>
#include <sys/timerfd.h>
#include <time.h>

namespace godwit {
namespace {

constexpr std::int64_t kMs = 1'000'000;

proto::TimerFd timer(std::int64_t deadline_ms, std::int64_t interval_ms, std::uint64_t ticks) {
  proto::TimerFd out;
  out.set_clock(CLOCK_MONOTONIC);
  out.set_deadline_ns(deadline_ms * kMs);
  out.set_remaining_ns(5 * kMs);
  out.set_interval_ns(interval_ms * kMs);
  out.set_expirations(ticks);
  return out;
}

TEST(TimerSetting, WhatTheBlackoutTookIsNotAdded) {
  const auto setting = timer_setting(timer(1005, 0, 0), 1002 * kMs);
  EXPECT_EQ(setting.value_ns, 1005 * kMs);
  EXPECT_EQ(setting.ticks, 0U);
  EXPECT_EQ(setting.flags, TFD_TIMER_ABSTIME);
}

TEST(TimerSetting, AClockThatIsSetKeepsItsKindOfTimer) {
  auto want = timer(1005, 0, 0);
  want.set_clock(CLOCK_REALTIME);
  const auto setting = timer_setting(want, 1002 * kMs);
  EXPECT_EQ(setting.value_ns, 3 * kMs);
  EXPECT_EQ(setting.flags, 0);
}

TEST(TimerSetting, AnOverdueOneShotFiresAtOnce) {
  EXPECT_EQ(timer_setting(timer(1005, 0, 0), 1010 * kMs).value_ns, 1005 * kMs);
  auto want = timer(1005, 0, 0);
  want.set_clock(CLOCK_REALTIME);
  EXPECT_EQ(timer_setting(want, 1010 * kMs).value_ns, 1);
}

TEST(TimerSetting, MissedPeriodsAreCountedAndThePhaseIsKept) {
  // Due at 1005, 1015, 1025; now it is 1027.
  const auto setting = timer_setting(timer(1005, 10, 4), 1027 * kMs);
  EXPECT_EQ(setting.ticks, 4U + 3U);
  EXPECT_EQ(setting.value_ns, 1035 * kMs);
  EXPECT_EQ(setting.interval_ns, 10 * kMs);
}

TEST(TimerSetting, AnExpirationTooCloseToArmIsCounted) {
  const auto setting = timer_setting(timer(1005, 10, 1), 1005 * kMs - 1000);
  EXPECT_EQ(setting.ticks, 2U);
  EXPECT_EQ(setting.value_ns, 1015 * kMs);
}

TEST(TimerSetting, AbsoluteTimesStayWhatTheyAre) {
  auto want = timer(1005, 10, 0);
  want.set_clock(CLOCK_REALTIME);
  want.set_set_flags(TFD_TIMER_ABSTIME);
  const auto setting = timer_setting(want, 1027 * kMs);
  EXPECT_EQ(setting.flags, TFD_TIMER_ABSTIME);
  EXPECT_EQ(setting.value_ns, 1005 * kMs);
  EXPECT_EQ(setting.ticks, 0U);
}

TEST(TimerSetting, DisarmedStaysDisarmed) {
  proto::TimerFd want;
  want.set_expirations(1);
  const auto setting = timer_setting(want, 1000 * kMs);
  EXPECT_EQ(setting.value_ns, 0);
  EXPECT_EQ(setting.ticks, 1U);
}

TEST(TimerSetting, ClocksThatDoNotGoOnFallBackToWhatWasLeft) {
  EXPECT_EQ(timer_setting(timer(1005, 0, 0), 900'000'000 * kMs).value_ns, 900'000'005 * kMs);
}

}  // namespace
}  // namespace godwit
