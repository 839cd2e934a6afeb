// timerfd: periodic timers that neither lose nor invent expirations, one-shot timers, absolute
// ones, several clocks, disarmed ones.
#include <sys/timerfd.h>

#include "integration/workloads/selfcheck.h"

using selfcheck::expect;
using selfcheck::expect_equal;
using selfcheck::must;
using selfcheck::now_ns;

namespace {

constexpr std::int64_t kSecond = 1'000'000'000;
constexpr std::int64_t kPeriod = 20'000'000;
constexpr std::int64_t kFar = 100'000 * kSecond;

struct Timers {
  int periodic = -1;  // read at each turn
  int unread = -1;    // read only at the end
  int absolute = -1;  // periodic, armed with an absolute time
  int once = -1;      // far away
  int boot = -1;      // far away, CLOCK_BOOTTIME
  int wall = -1;      // far away, CLOCK_REALTIME, absolute
  int disarmed = -1;
  int expired = -1;        // one expiration waits, never read before the end
  std::int64_t start = 0;  // of the three periodic ones
  std::int64_t far_deadline = 0;
  std::uint64_t ticks = 0;
  std::uint64_t absolute_ticks = 0;
};

itimerspec setting(std::int64_t value_ns, std::int64_t interval_ns) {
  itimerspec out{};
  out.it_value = {value_ns / kSecond, value_ns % kSecond};
  out.it_interval = {interval_ns / kSecond, interval_ns % kSecond};
  return out;
}

int make(clockid_t clock, int flags, std::int64_t value_ns, std::int64_t interval_ns) {
  const int fd = must(timerfd_create(clock, TFD_NONBLOCK), "timerfd_create");
  const itimerspec wanted = setting(value_ns, interval_ns);
  must(timerfd_settime(fd, flags, &wanted, nullptr), "timerfd_settime");
  return fd;
}

std::uint64_t read_ticks(int fd) {
  std::uint64_t ticks = 0;
  const auto bytes = read(fd, &ticks, sizeof ticks);
  expect(bytes == 8 || errno == EAGAIN, "reading a timer");
  return bytes == 8 ? ticks : 0;
}

void set_up(Timers& timers) {
  timers.start = now_ns(CLOCK_MONOTONIC);
  timers.periodic = make(CLOCK_MONOTONIC, 0, kPeriod, kPeriod);
  timers.unread = make(CLOCK_MONOTONIC, 0, kPeriod, kPeriod);
  timers.absolute = make(CLOCK_MONOTONIC, TFD_TIMER_ABSTIME, timers.start + kPeriod, kPeriod);
  timers.far_deadline = now_ns(CLOCK_MONOTONIC) + kFar;
  timers.once = make(CLOCK_MONOTONIC, 0, kFar, 0);
  timers.boot = make(CLOCK_BOOTTIME, 0, kFar, 7 * kSecond);
  timers.wall = make(CLOCK_REALTIME, TFD_TIMER_ABSTIME, now_ns(CLOCK_REALTIME) + kFar, 0);
  timers.disarmed =
      must(timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK), "timerfd_create");
  timers.expired = make(CLOCK_MONOTONIC, 0, 1, 0);
}

// The ticks that a timer of kPeriod must have given: neither fewer than before this moment nor more
// than after it. A turn of the phase shows as a lasting difference.
void check_ticks(std::int64_t before, std::uint64_t ticks, std::int64_t start,
                 const std::string& name) {
  const std::int64_t slack = 3'000'000;  // setting up, and arming again after a move
  const auto least = (before - start - slack) / kPeriod;
  const auto most = (now_ns(CLOCK_MONOTONIC) - start + slack) / kPeriod;
  expect(static_cast<std::int64_t>(ticks) >= least && static_cast<std::int64_t>(ticks) <= most,
         name + " gave " + std::to_string(ticks) + " ticks, expected " + std::to_string(least) +
             " to " + std::to_string(most));
}

void check_far(int fd, std::int64_t deadline, std::int64_t interval_ns, const std::string& name) {
  itimerspec left{};
  must(timerfd_gettime(fd, &left), "timerfd_gettime");
  const std::int64_t left_ns = left.it_value.tv_sec * kSecond + left.it_value.tv_nsec;
  const std::int64_t wanted = deadline - now_ns(CLOCK_MONOTONIC);
  expect(left_ns > wanted - kSecond / 10 && left_ns < wanted + kSecond / 10,
         name + " is off by " + std::to_string(left_ns - wanted) + " ns");
  expect_equal(left.it_interval.tv_sec * kSecond + left.it_interval.tv_nsec, interval_ns,
               "interval of " + name);
}

void turn(Timers& timers) {
  std::int64_t before = now_ns(CLOCK_MONOTONIC);
  timers.ticks += read_ticks(timers.periodic);
  check_ticks(before, timers.ticks, timers.start, "the periodic timer");
  before = now_ns(CLOCK_MONOTONIC);
  timers.absolute_ticks += read_ticks(timers.absolute);
  check_ticks(before, timers.absolute_ticks, timers.start, "the absolute timer");
  check_far(timers.once, timers.far_deadline, 0, "the one-shot timer");
  check_far(timers.boot, timers.far_deadline, 7 * kSecond, "the timer of CLOCK_BOOTTIME");
  check_far(timers.wall, timers.far_deadline, 0, "the timer of CLOCK_REALTIME");
  expect_equal(read_ticks(timers.disarmed), 0U, "ticks of the disarmed timer");
  expect_equal(fcntl(timers.disarmed, F_GETFD), FD_CLOEXEC, "close-on-exec");
  itimerspec left{};
  must(timerfd_gettime(timers.disarmed, &left), "timerfd_gettime");
  expect(left.it_value.tv_sec == 0 && left.it_value.tv_nsec == 0, "the disarmed timer is armed");
}

void final_check(Timers& timers) {
  const std::int64_t before = now_ns(CLOCK_MONOTONIC);
  check_ticks(before, read_ticks(timers.unread), timers.start, "the timer that was never read");
  expect_equal(read_ticks(timers.expired), 1U, "the expiration that waited");
  expect_equal(read_ticks(timers.expired), 0U, "a second expiration of a one-shot timer");
}

}  // namespace

int main(int argc, char** argv) {
  Timers timers;
  return selfcheck::run_workload(
      argc, argv, [&] { set_up(timers); }, [&] { turn(timers); }, [&] { final_check(timers); });
}
