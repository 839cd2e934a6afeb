// Blocking calls go on, or return EINTR, exactly as after a stop in which nobody ran anything
// (signal(7), "Interruption of system calls and library functions by stop signals").
#include <gtest/gtest.h>
#include <linux/futex.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include <atomic>

#include "common/base/error.h"
#include "common/remote/remote_task.h"
#include "common/remote/test_child.h"

namespace godwit {
namespace {

using testing::Child;
using testing::Shared;
using testing::wait_asleep;

constexpr std::int64_t kMs = 1'000'000;
constexpr std::int64_t kLong = 200;  // ms
constexpr int kStops = 15;           // 10 ms apart

struct Result {
  long value = -1;
  int error = 0;
  std::int64_t began_ns = 0;
  std::int64_t ended_ns = 0;
  std::int64_t last_stop_ns = 0;
};

struct Call {
  const char* name;
  long (*make)(int pipe_fd);
  bool woken;  // by a byte in the pipe after the last stop, else by its timeout
};

timespec span(std::int64_t ms) { return {ms / 1000, ms % 1000 * kMs}; }

long call_nanosleep(int) {
  const timespec time = span(kLong);
  timespec rest{};
  return nanosleep(&time, &rest);
}
long call_clock_nanosleep_absolute(int) {
  timespec until{};
  clock_gettime(CLOCK_MONOTONIC, &until);
  const std::int64_t ns = until.tv_nsec + kLong * kMs;
  until = {until.tv_sec + ns / 1'000'000'000, ns % 1'000'000'000};
  errno = clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, nullptr);
  return errno == 0 ? 0 : -1;
}
long call_poll(int fd) {
  pollfd wanted{fd, POLLIN, 0};
  return poll(&wanted, 1, kLong);
}
long call_ppoll(int fd) {
  pollfd wanted{fd, POLLIN, 0};
  const timespec time = span(kLong);
  sigset_t none;
  sigemptyset(&none);
  return ppoll(&wanted, 1, &time, &none);
}
long call_select(int fd) {
  fd_set set;
  FD_ZERO(&set);
  FD_SET(fd, &set);
  timeval time{0, kLong * 1000};
  return select(fd + 1, &set, nullptr, nullptr, &time);
}
long call_futex_timeout(int) {
  static int word = 0;
  const timespec time = span(kLong);
  return syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, 0, &time, nullptr, 0);
}
long call_epoll_wait(int fd) {
  const int epoll = epoll_create1(0);
  epoll_event event{EPOLLIN, {}};
  epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
  return epoll_wait(epoll, &event, 1, kLong);
}
long call_epoll_pwait(int fd) {
  const int epoll = epoll_create1(0);
  epoll_event event{EPOLLIN, {}};
  epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
  sigset_t all;
  sigfillset(&all);
  return epoll_pwait(epoll, &event, 1, kLong, &all);
}
long call_read(int fd) {
  char c = 0;
  return read(fd, &c, 1);
}
long call_poll_forever(int fd) {
  pollfd wanted{fd, POLLIN, 0};
  return poll(&wanted, 1, -1);
}
long call_recv_timeout(int) {
  int pair[2];
  if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair) != 0) return -2;
  const timeval time{0, kLong * 1000};
  setsockopt(pair[0], SOL_SOCKET, SO_RCVTIMEO, &time, sizeof time);
  char c = 0;
  return recv(pair[0], &c, 1, 0);
}
long call_sigtimedwait(int) {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGUSR1);
  sigprocmask(SIG_BLOCK, &set, nullptr);
  const timespec time = span(kLong);
  return sigtimedwait(&set, nullptr, &time);
}

class Restart : public ::testing::TestWithParam<Call> {};

enum class Visit { kNone, kStopOnly, kBatch };

Result visit_while_blocked(const Call& call, Visit visit) {
  Shared<Result> result;
  int fds[2];
  if (pipe(fds) != 0) return {};
  const UniqueFd from(fds[0]), to(fds[1]);
  Child child([&] {
    result->began_ns = monotonic_ns();
    result->value = call.make(from.get());
    result->error = result->value == -1 ? errno : 0;
    result->ended_ns = monotonic_ns();
    return 0;
  });
  EXPECT_TRUE(wait_asleep(child.pid()));
  RemoteTask task = RemoteTask::attach(child.pid());
  SyscallBatch batch;
  batch.add(SYS_getpid, {});
  batch.add(SYS_sched_yield, {});
  try {
    for (int i = 0; i < kStops && visit != Visit::kNone; ++i) {
      task.stop();
      result->last_stop_ns = monotonic_ns();
      if (visit == Visit::kBatch) task.run(batch);
      task.resume();
      usleep(10'000);
    }
    task.detach();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ESRCH) << error.what();  // the call returned, the child has ended
  }
  if (call.woken && write(to.get(), "x", 1) != 1) ADD_FAILURE();
  child.wait();
  return *result;
}

TEST_P(Restart, AsAfterAnOrdinaryStop) {
  const Result stopped = visit_while_blocked(GetParam(), Visit::kStopOnly);
  const Result ran = visit_while_blocked(GetParam(), Visit::kBatch);
  EXPECT_EQ(ran.value, stopped.value);
  EXPECT_EQ(ran.error, stopped.error);
  if (GetParam().woken || stopped.error == EINTR) return;
  EXPECT_GE(to_ms(ran.ended_ns - ran.began_ns), kLong);
  // Earlier than if a stop had made it begin with its whole time anew.
  EXPECT_LT(to_ms(ran.ended_ns - ran.last_stop_ns), kLong);
}

INSTANTIATE_TEST_SUITE_P(
    Calls, Restart,
    ::testing::Values(Call{"nanosleep", call_nanosleep, false},
                      Call{"clock_nanosleep_absolute", call_clock_nanosleep_absolute, false},
                      Call{"poll", call_poll, false}, Call{"ppoll", call_ppoll, false},
                      Call{"select", call_select, false},
                      Call{"futex_timeout", call_futex_timeout, false},
                      Call{"epoll_wait", call_epoll_wait, false},
                      Call{"epoll_pwait", call_epoll_pwait, false}, Call{"read", call_read, true},
                      Call{"poll_forever", call_poll_forever, true},
                      Call{"recv_timeout", call_recv_timeout, false},
                      Call{"sigtimedwait", call_sigtimedwait, false}),
    [](const auto& info) { return std::string(info.param.name); });

// The ones that this kernel never interrupts for a stop, said outright.
TEST(RestartFacts, SleepersSleepTheirTime) {
  for (const auto make : {call_nanosleep, call_poll, call_select, call_clock_nanosleep_absolute}) {
    const Result result = visit_while_blocked({"", make, false}, Visit::kBatch);
    EXPECT_EQ(result.value, 0);
  }
  EXPECT_EQ(visit_while_blocked({"", call_futex_timeout, false}, Visit::kBatch).error, ETIMEDOUT);
  EXPECT_EQ(visit_while_blocked({"", call_epoll_wait, false}, Visit::kBatch).error, EINTR);
}

}  // namespace
}  // namespace godwit
