#include "source-agent/capture/timerfds.h"

#include <gtest/gtest.h>
#include <sched.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "common/base/scope_exit.h"

namespace godwit {
namespace {

// The first of the processors that this thread may use, or the last.
cpu_set_t one_of(const cpu_set_t& all, bool last) {
  cpu_set_t out;
  CPU_ZERO(&out);
  for (int at = 0; at < CPU_SETSIZE; ++at) {
    const int cpu = last ? CPU_SETSIZE - 1 - at : at;
    if (!CPU_ISSET(cpu, &all)) continue;
    CPU_SET(cpu, &out);
    return out;
  }
  return all;
}

// The interrupt of a timer comes to the processor on which it was armed, which may be another one.
TEST(TimerFdCapture, APeriodicTimerIsNeverTakenForADisarmedOne) {
  const UniqueFd timer(timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC));
  ASSERT_TRUE(timer.valid());
  const ProcFdDirectory directory(getpid());
  constexpr long kPeriodNs = 50'000;
  const itimerspec setting{{0, kPeriodNs}, {0, kPeriodNs}};
  cpu_set_t before;
  ASSERT_EQ(sched_getaffinity(0, sizeof before, &before), 0);
  const ScopeExit back([&] { sched_setaffinity(0, sizeof before, &before); });
  const cpu_set_t first = one_of(before, false);
  const cpu_set_t last = one_of(before, true);
  ASSERT_EQ(sched_setaffinity(0, sizeof last, &last), 0);
  ASSERT_EQ(timerfd_settime(timer.get(), 0, &setting, nullptr), 0);
  ASSERT_EQ(sched_setaffinity(0, sizeof first, &first), 0);
  for (int i = 0; i < 20'000; ++i) {
    FdFacts facts;
    facts.host_pid = getpid();
    facts.fd = timer.get();
    facts.set_link(*directory.link(timer.get()));
    facts.info = *directory.info(timer.get());
    facts.copy = UniqueFd(dup(timer.get()));
    Findings findings;
    const proto::TimerFd out = capture_timerfd(facts, directory, {}, findings);
    ASSERT_TRUE(findings.empty());
    ASSERT_EQ(out.interval_ns(), kPeriodNs);
    ASSERT_NE(out.remaining_ns(), 0) << "capture " << i;
  }
}

}  // namespace
}  // namespace godwit
