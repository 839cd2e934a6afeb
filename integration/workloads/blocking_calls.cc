// Threads that sleep in every sort of blocking call. A stop must pass unnoticed: the call goes on
// with the time that was left, or (only where signal(7) says that even a stop without a signal does
// this) returns EINTR. Return values and durations are checked: never early, never much too late.
#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/select.h>

#include <atomic>
#include <thread>
#include <vector>

#include "integration/workloads/selfcheck.h"

namespace {

using selfcheck::expect;
using selfcheck::expect_equal;
using selfcheck::must;
using selfcheck::now_ns;

constexpr std::int64_t kMs = 1'000'000;
constexpr std::int64_t kSecond = 1000 * kMs;
constexpr std::int64_t kTime = 2 * kSecond;
constexpr std::int64_t kEarly = 2 * kMs;
constexpr std::int64_t kLate = 1500 * kMs;
constexpr std::int64_t kLateHidden = kLate + 2 * kTime;
constexpr timespec kTimespec{kTime / kSecond, kTime % kSecond};

std::atomic<bool> stop{false};
std::atomic<int> wakes{0};
int words[2] = {0, 0};  // futexes nobody touches, and one that is woken
int pipe_ends[2];
int silent_ends[2];
int epoll_descriptor;

// A call that must take kTime, `late_ns` more at the most.
void timed(const std::string& name, std::int64_t late_ns, const std::function<void()>& call) {
  const std::int64_t begin = now_ns(CLOCK_MONOTONIC);
  call();
  const std::int64_t took = now_ns(CLOCK_MONOTONIC) - begin;
  expect(took >= kTime - kEarly, name + " ended early: " + std::to_string(took) + " ns");
  expect(took <= kTime + late_ns, name + " took too long: " + std::to_string(took) + " ns");
}

// For calls that a stop may end with EINTR: again, with what is left.
template <typename Call>
void until_time(const std::string& name, int result_at_end, int errno_at_end, const Call& call) {
  const std::int64_t end = now_ns(CLOCK_MONOTONIC) + kTime;
  for (;;) {
    const std::int64_t left = end - now_ns(CLOCK_MONOTONIC);
    if (left <= 0) return;
    const long result = call(left);
    const int code = errno;
    if (result == -1 && code == EINTR) continue;
    expect_equal(result, result_at_end, name);
    if (result == -1) expect_equal(code, errno_at_end, name + ", errno");
    return;
  }
}

timespec absolute(clockid_t clock) {
  const std::int64_t end = now_ns(clock) + kTime;
  return {end / kSecond, end % kSecond};
}

void sleep_with_rest() {
  timespec rest{77, 7};
  expect_equal(syscall(SYS_nanosleep, &kTimespec, &rest), 0, "nanosleep");
}
void sleep_without_rest() {
  expect_equal(syscall(SYS_nanosleep, &kTimespec, nullptr), 0, "nanosleep without rest");
}
void sleep_on_clock() {
  expect_equal(clock_nanosleep(CLOCK_BOOTTIME, 0, &kTimespec, nullptr), 0, "clock_nanosleep");
}
void sleep_until() {
  const timespec end = absolute(CLOCK_MONOTONIC);
  expect_equal(clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &end, nullptr), 0,
               "clock_nanosleep until");
}
void poll_silent() {
  pollfd descriptor{silent_ends[0], POLLIN, 0};
  expect_equal(poll(&descriptor, 1, kTime / kMs), 0, "poll");
  expect_equal(descriptor.revents, 0, "poll's answer");
}
void ppoll_silent() {
  pollfd descriptor{silent_ends[0], POLLIN, 0};
  expect_equal(ppoll(&descriptor, 1, &kTimespec, nullptr), 0, "ppoll");
}
void select_silent() {
  fd_set set;
  FD_ZERO(&set);
  FD_SET(silent_ends[0], &set);
  timeval time{kTime / kSecond, 0};
  expect_equal(select(silent_ends[0] + 1, &set, nullptr, nullptr, &time), 0, "select");
}
void futex_with_timeout() {
  const long result = syscall(SYS_futex, &words[0], FUTEX_WAIT_PRIVATE, 0, &kTimespec, nullptr, 0);
  const int code = errno;
  expect_equal(result, -1, "futex");
  expect_equal(code, ETIMEDOUT, "futex, errno");
}
void wait_on_condition() {
  pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
  pthread_cond_t condition;
  pthread_condattr_t attributes;
  pthread_condattr_init(&attributes);
  pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
  pthread_cond_init(&condition, &attributes);
  pthread_mutex_lock(&mutex);
  const timespec end = absolute(CLOCK_MONOTONIC);
  int code = 0;
  while (code == 0) code = pthread_cond_timedwait(&condition, &mutex, &end);
  expect_equal(code, ETIMEDOUT, "pthread_cond_timedwait");
  pthread_mutex_unlock(&mutex);
}

void epoll_silent() {
  epoll_event event{};
  until_time("epoll_wait", 0, 0, [&](std::int64_t left) {
    return epoll_wait(epoll_descriptor, &event, 1, static_cast<int>((left + kMs - 1) / kMs));
  });
}
void wait_for_signal() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGRTMAX - 1);
  until_time("sigtimedwait", -1, EAGAIN, [&](std::int64_t left) {
    const timespec time{left / kSecond, left % kSecond};
    return sigtimedwait(&set, nullptr, &time);
  });
}
void wait_for_semaphore() {
  sem_t semaphore;
  sem_init(&semaphore, 0, 0);
  const timespec end = absolute(CLOCK_MONOTONIC);
  until_time("sem_clockwait", -1, ETIMEDOUT,
             [&](std::int64_t) { return sem_clockwait(&semaphore, CLOCK_MONOTONIC, &end); });
}

// Woken by the main thread, with no time of its own.
void read_pipe() {
  char byte = 0;
  for (int count = 0; byte != 'q'; ++count) {
    expect_equal(read(pipe_ends[0], &byte, 1), 1, "read");
    if (byte != 'q') expect_equal(byte, 'a' + count % 16, "a byte of the pipe");
  }
}
void futex_until_woken() {
  int seen = 0;
  while (!stop) {
    const long result =
        syscall(SYS_futex, &words[1], FUTEX_WAIT_PRIVATE, seen, nullptr, nullptr, 0);
    const int code = errno;
    expect(result == 0 || code == EAGAIN, "futex without time: errno " + std::to_string(code));
    seen = __atomic_load_n(&words[1], __ATOMIC_SEQ_CST);
    ++wakes;
  }
}

struct Case {
  const char* name;
  void (*call)();
  std::int64_t late_ns = kLate;
};
constexpr Case kCases[] = {{"nanosleep", sleep_with_rest},
                           {"nanosleep without rest", sleep_without_rest, kLateHidden},
                           {"clock_nanosleep", sleep_on_clock, kLateHidden},
                           {"clock_nanosleep until", sleep_until},
                           {"poll", poll_silent, kLateHidden},
                           {"ppoll", ppoll_silent},
                           {"select", select_silent},
                           {"futex", futex_with_timeout, kLateHidden},
                           {"pthread_cond_timedwait", wait_on_condition},
                           {"epoll_wait", epoll_silent},
                           {"sigtimedwait", wait_for_signal},
                           {"sem_clockwait", wait_for_semaphore}};

std::vector<std::thread> threads;

void set_up() {
  must(pipe(pipe_ends), "pipe");
  must(pipe(silent_ends), "pipe");
  epoll_descriptor = must(epoll_create1(0), "epoll_create1");
  epoll_event event{};
  event.events = EPOLLIN;
  must(epoll_ctl(epoll_descriptor, EPOLL_CTL_ADD, silent_ends[0], &event), "epoll_ctl");
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGRTMAX - 1);
  expect(pthread_sigmask(SIG_BLOCK, &set, nullptr) == 0, "pthread_sigmask");
  for (const Case& test : kCases) {
    threads.emplace_back([&test] {
      while (!stop) timed(test.name, test.late_ns, test.call);
    });
  }
  threads.emplace_back(read_pipe);
  threads.emplace_back(futex_until_woken);
}

void wake_futex() {
  __atomic_add_fetch(&words[1], 1, __ATOMIC_SEQ_CST);
  must(syscall(SYS_futex, &words[1], FUTEX_WAKE_PRIVATE, 1, nullptr, nullptr, 0), "futex wake");
}

void turn() {
  static int turns = 0;
  const char byte = static_cast<char>('a' + turns++ % 16);
  expect_equal(write(pipe_ends[1], &byte, 1), 1, "write");
  const int before = wakes;
  wake_futex();
  for (int i = 0; i < 2000 && wakes == before; ++i) selfcheck::sleep_ms(5);
  expect(wakes > before, "a thread was not woken from its futex");
  selfcheck::sleep_ms(100);
}

void final_check() {
  stop = true;
  const char byte = 'q';
  expect_equal(write(pipe_ends[1], &byte, 1), 1, "write");
  wake_futex();
  for (std::thread& thread : threads) thread.join();
}

}  // namespace

int main(int argc, char** argv) {
  return selfcheck::run_workload(argc, argv, set_up, turn, final_check);
}
