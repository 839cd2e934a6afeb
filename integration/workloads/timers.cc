// Timers: the three interval timers, POSIX timers on several clocks (with numbers that have gaps,
// one for a thread, one that only counts), periodic and far away ones. They must go on, with their
// numbers and periods, neither early nor lost.
#include <signal.h>
#include <sys/time.h>
#include <time.h>

#include <atomic>
#include <cstdlib>
#include <thread>

#include "integration/workloads/selfcheck.h"

namespace {

using selfcheck::expect;
using selfcheck::expect_equal;
using selfcheck::must;

constexpr std::int64_t kSecond = 1'000'000'000;
constexpr std::int64_t kPeriod = 20'000'000;
constexpr int kBigPayload = 0x7654321;
constexpr long kFarSeconds = 100'000;

std::atomic<int> alarms{0};
std::atomic<int> periods{0};
std::atomic<int> wrong{0};
std::atomic<int> cpu_ends{0};
int periodic_id, far_id, silent_id, thread_id, cpu_id;
pid_t main_tid;
std::int64_t far_end_ns, started_ns;

void on_alarm(int) { ++alarms; }
void on_cpu(int) { ++cpu_ends; }
void on_period(int, siginfo_t* info, void*) {
  if (info->si_code != SI_TIMER || info->si_value.sival_int != kBigPayload) wrong = 1;
  if (syscall(SYS_gettid) != main_tid) wrong = 2;
  ++periods;
}

// The raw call: libc hides the kernel's number.
int create(clockid_t clock, int notify, int signal, int value, pid_t tid = 0) {
  struct sigevent event {};
  event.sigev_notify = notify;
  event.sigev_signo = signal;
  event.sigev_value.sival_int = value;
  event._sigev_un._tid = tid;
  int id = -1;
  must(syscall(SYS_timer_create, clock, &event, &id), "timer_create");
  return id;
}

void arm(int id, std::int64_t first_ns, std::int64_t interval_ns) {
  const itimerspec time{{interval_ns / kSecond, interval_ns % kSecond},
                        {first_ns / kSecond, first_ns % kSecond}};
  must(syscall(SYS_timer_settime, id, 0, &time, nullptr), "timer_settime");
}

itimerspec get(int id) {
  itimerspec time{};
  must(syscall(SYS_timer_gettime, id, &time), "timer " + std::to_string(id) + " is gone");
  return time;
}

std::int64_t ns_of(const timespec& time) { return time.tv_sec * kSecond + time.tv_nsec; }

void install(int signal, void (*handler)(int)) {
  struct sigaction action {};
  action.sa_handler = handler;
  action.sa_flags = SA_RESTART;
  must(sigaction(signal, &action, nullptr), "sigaction");
}

void set_up() {
  main_tid = static_cast<pid_t>(syscall(SYS_gettid));
  install(SIGALRM, on_alarm);
  install(SIGVTALRM, on_cpu);
  install(SIGPROF, on_alarm);
  struct sigaction action {};
  action.sa_sigaction = on_period;
  action.sa_flags = SA_SIGINFO | SA_RESTART;
  must(sigaction(SIGRTMIN + 2, &action, nullptr), "sigaction");
  const itimerval real{{0, 30'000}, {0, 30'000}};
  must(setitimer(ITIMER_REAL, &real, nullptr), "setitimer");
  const itimerval far{{0, 0}, {kFarSeconds, 0}};
  must(setitimer(ITIMER_PROF, &far, nullptr), "setitimer");
  // Gaps in the numbers.
  const int dropped = create(CLOCK_MONOTONIC, SIGEV_NONE, 0, 0);
  thread_id = create(CLOCK_MONOTONIC, SIGEV_THREAD_ID, SIGRTMIN + 2, kBigPayload, main_tid);
  const int dropped_too = create(CLOCK_REALTIME, SIGEV_NONE, 0, 0);
  periodic_id = create(CLOCK_BOOTTIME, SIGEV_THREAD_ID, SIGRTMIN + 2, kBigPayload, main_tid);
  far_id = create(CLOCK_MONOTONIC, SIGEV_SIGNAL, SIGUSR1, 1);
  silent_id = create(CLOCK_REALTIME, SIGEV_NONE, 0, 0);
  cpu_id = create(CLOCK_PROCESS_CPUTIME_ID, SIGEV_SIGNAL, SIGVTALRM, 2);
  must(syscall(SYS_timer_delete, dropped), "timer_delete");
  must(syscall(SYS_timer_delete, dropped_too), "timer_delete");
  started_ns = selfcheck::now_ns(CLOCK_MONOTONIC);
  far_end_ns = started_ns + kFarSeconds * kSecond;
  arm(periodic_id, kPeriod, kPeriod);
  arm(far_id, kFarSeconds * kSecond, 0);
  arm(silent_id, kFarSeconds * kSecond, 7 * kSecond);
  arm(cpu_id, kFarSeconds * kSecond, 0);
}

// A one-shot timer of 50 ms: it comes, once, and not early.
void one_shot() {
  const int before = periods;
  arm(periodic_id, 0, 0);  // the other sender of this signal is silent meanwhile
  const std::int64_t begin = selfcheck::now_ns(CLOCK_MONOTONIC);
  arm(thread_id, 50'000'000, 0);
  const int seen = periods;
  expect(seen - before <= 1, "more than one signal between two calls");
  while (periods == seen && selfcheck::now_ns(CLOCK_MONOTONIC) - begin < 20 * kSecond) {
    selfcheck::sleep_ms(1);
  }
  const std::int64_t took = selfcheck::now_ns(CLOCK_MONOTONIC) - begin;
  expect_equal(periods.load(), seen + 1, "a one-shot timer's signals");
  expect(took >= 48'000'000, "a timer of 50 ms ended after " + std::to_string(took) + " ns");
  expect(ns_of(get(thread_id).it_value) == 0, "a timer that ended is armed");
  arm(periodic_id, kPeriod, kPeriod);
}

void check_far_timers() {
  const std::int64_t left = far_end_ns - selfcheck::now_ns(CLOCK_MONOTONIC);
  const std::int64_t shown = ns_of(get(far_id).it_value);
  expect(std::llabs(left - shown) < 5 * kSecond,
         "the far timer has " + std::to_string(shown) + " ns left, not " + std::to_string(left));
  const itimerspec silent = get(silent_id);
  expect_equal(ns_of(silent.it_interval), 7 * kSecond, "interval of the silent timer");
  expect(std::llabs(left - ns_of(silent.it_value)) < 5 * kSecond, "the silent timer drifted");
  const std::int64_t cpu_left = ns_of(get(cpu_id).it_value);
  expect(cpu_left > (kFarSeconds - 10'000) * kSecond && cpu_left <= kFarSeconds * kSecond,
         "the timer on processor time has " + std::to_string(cpu_left) + " ns left");
  itimerval prof{};
  must(getitimer(ITIMER_PROF, &prof), "getitimer");
  expect(prof.it_value.tv_sec > kFarSeconds - 10'000, "ITIMER_PROF lost its time");
  itimerval real{};
  must(getitimer(ITIMER_REAL, &real), "getitimer");
  expect_equal(real.it_interval.tv_usec, 30'000, "interval of ITIMER_REAL");
}

void turn() {
  static int turns = 0;
  const int alarms_before = alarms;
  const int periods_before = periods;
  one_shot();
  expect_equal(wrong.load(), 0, "a timer's signal came wrong");
  expect_equal(cpu_ends.load(), 0, "a far timer ended");
  check_far_timers();
  // 200 ms: several periods of both must have come, whatever happened.
  const std::int64_t until = selfcheck::now_ns(CLOCK_MONOTONIC) + 200'000'000;
  while (selfcheck::now_ns(CLOCK_MONOTONIC) < until) selfcheck::sleep_ms(5);
  expect(alarms > alarms_before, "ITIMER_REAL stands still");
  expect(periods > periods_before + 1, "the periodic timer stands still");
  ++turns;
}

}  // namespace

int main(int argc, char** argv) {
  return selfcheck::run_workload(argc, argv, set_up, turn, [] {});
}
