// Clocks as a program reads them, most of the time through the vDSO: they agree with what the
// kernel itself says, and go on. At its end it says what a call cost it: a line "COST ns", and
// "KERNEL ns" for a system call.
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>

#include <algorithm>
#include <cstdint>
#include <string>

#include "integration/workloads/selfcheck.h"

namespace {

using selfcheck::expect;
using selfcheck::now_ns;

constexpr clockid_t kClocks[] = {CLOCK_MONOTONIC,        CLOCK_BOOTTIME,
                                 CLOCK_REALTIME,         CLOCK_MONOTONIC_RAW,
                                 CLOCK_MONOTONIC_COARSE, CLOCK_REALTIME_COARSE};
constexpr std::int64_t kCoarseNs = 20'000'000;  // a tick of 100 Hz, twice

std::int64_t ask_kernel(clockid_t clock) {
  timespec now{};
  syscall(SYS_clock_gettime, clock, &now);
  return now.tv_sec * 1'000'000'000LL + now.tv_nsec;
}

bool is_coarse(clockid_t clock) {
  return clock == CLOCK_MONOTONIC_COARSE || clock == CLOCK_REALTIME_COARSE;
}

// What the vDSO says is between two answers of the kernel.
void check_clock(clockid_t clock) {
  const std::int64_t before = ask_kernel(clock);
  const std::int64_t now = now_ns(clock);
  const std::int64_t after = ask_kernel(clock);
  const std::int64_t slack = is_coarse(clock) ? kCoarseNs : 0;
  expect(now >= before - slack && now <= after + slack,
         "clock " + std::to_string(clock) + " says " + std::to_string(now) + ", the kernel " +
             std::to_string(before) + " and then " + std::to_string(after));
}

void check_other_calls() {
  timeval day{};
  gettimeofday(&day, nullptr);
  const std::int64_t now = ask_kernel(CLOCK_REALTIME);
  const std::int64_t said = day.tv_sec * 1'000'000'000LL + day.tv_usec * 1000LL;
  expect(said <= now && now - said < 1'000'000'000,
         "gettimeofday said " + std::to_string(said) + ", the kernel " + std::to_string(now));
  expect(now / 1'000'000'000 - time(nullptr) <= 1, "time");
}

// Of the fastest of some batches, which nothing disturbed.
template <typename Call>
std::int64_t cost_ns(const Call& call) {
  constexpr int kBatches = 200;
  constexpr int kCalls = 500;
  std::int64_t best = INT64_MAX;
  for (int batch = 0; batch < kBatches; ++batch) {
    const std::int64_t began = now_ns(CLOCK_MONOTONIC_RAW);
    for (int i = 0; i < kCalls; ++i) call();
    best = std::min(best, now_ns(CLOCK_MONOTONIC_RAW) - began);
  }
  return best / kCalls;
}

void tell_costs() {
  const std::int64_t cost = cost_ns([] { now_ns(CLOCK_MONOTONIC); });
  selfcheck::report("COST " + std::to_string(cost));
  selfcheck::report("KERNEL " + std::to_string(cost_ns([] { ask_kernel(CLOCK_MONOTONIC); })));
}

}  // namespace

int main(int argc, char** argv) {
  return selfcheck::run_workload(
      argc, argv, [] {},
      [] {
        for (const clockid_t clock : kClocks) check_clock(clock);
        check_other_calls();
      },
      tell_costs);
}
