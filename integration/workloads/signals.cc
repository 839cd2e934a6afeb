// Signals: actions with flags and masks, pending ones (standard and queued, for the process and for
// a thread) that must arrive once, in order and with their values, an alternate stack in use, and a
// signal that interrupts work all the time.
#include <pthread.h>
#include <signal.h>

#include <atomic>
#include <vector>

#include "integration/workloads/selfcheck.h"

namespace {

using selfcheck::expect;
using selfcheck::expect_equal;
using selfcheck::must;

constexpr int kQueued = 5;
constexpr std::size_t kStackBytes = 64 << 10;

std::atomic<int> usr1_seen{0};
std::atomic<int> stack_seen{0};
char* stack_memory = nullptr;
int turn_number = 0;

void on_usr1(int, siginfo_t* info, void*) {
  if (info->si_code == SI_TKILL && info->si_pid == getpid()) ++usr1_seen;
}

void on_usr2(int) {
  char here;
  stack_seen = &here >= stack_memory && &here < stack_memory + kStackBytes ? 1 : 2;
  usleep(3000);  // long enough to be moved inside a handler now and then
}

void on_urgent(int) {}

void install(int signal, int flags, void (*handler)(int), std::vector<int> also_blocked) {
  struct sigaction action {};
  action.sa_handler = handler;
  action.sa_flags = flags;
  for (const int other : also_blocked) sigaddset(&action.sa_mask, other);
  must(sigaction(signal, &action, nullptr), "sigaction");
}

void set_up() {
  stack_memory = new char[kStackBytes];
  const stack_t stack{stack_memory, 0, kStackBytes};
  must(sigaltstack(&stack, nullptr), "sigaltstack");
  struct sigaction usr1 {};
  usr1.sa_sigaction = on_usr1;
  usr1.sa_flags = SA_SIGINFO | SA_RESTART;
  must(sigaction(SIGUSR1, &usr1, nullptr), "sigaction");
  install(SIGUSR2, SA_ONSTACK, on_usr2, {SIGHUP, SIGRTMIN + 3});
  install(SIGURG, SA_RESTART, on_urgent, {});
  install(SIGPIPE, 0, SIG_IGN, {});
  install(SIGCHLD, SA_NOCLDSTOP | SA_NOCLDWAIT, SIG_DFL, {});
  sigset_t blocked;
  sigemptyset(&blocked);
  for (const int signal : {SIGTERM, SIGHUP, SIGRTMIN, SIGRTMIN + 1}) sigaddset(&blocked, signal);
  must(sigprocmask(SIG_BLOCK, &blocked, nullptr), "sigprocmask");
}

void check_actions() {
  struct sigaction action {};
  must(sigaction(SIGUSR1, nullptr, &action), "sigaction");
  expect(action.sa_sigaction == on_usr1 &&
             (action.sa_flags & (SA_SIGINFO | SA_RESTART)) == (SA_SIGINFO | SA_RESTART),
         "the action of SIGUSR1 changed");
  must(sigaction(SIGUSR2, nullptr, &action), "sigaction");
  expect(action.sa_handler == on_usr2 && (action.sa_flags & SA_ONSTACK) != 0 &&
             sigismember(&action.sa_mask, SIGHUP) == 1 &&
             sigismember(&action.sa_mask, SIGRTMIN + 3) == 1 &&
             sigismember(&action.sa_mask, SIGTERM) == 0,
         "the action of SIGUSR2 changed");
  must(sigaction(SIGPIPE, nullptr, &action), "sigaction");
  expect(action.sa_handler == SIG_IGN, "SIGPIPE is no longer ignored");
  must(sigaction(SIGCHLD, nullptr, &action), "sigaction");
  expect(action.sa_handler == SIG_DFL &&
             (action.sa_flags & (SA_NOCLDSTOP | SA_NOCLDWAIT)) == (SA_NOCLDSTOP | SA_NOCLDWAIT),
         "the flags of SIGCHLD changed");
}

siginfo_t take(int signal) {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, signal);
  siginfo_t info{};
  const timespec none{};
  must(sigtimedwait(&set, &info, &none), "signal " + std::to_string(signal) + " is not pending");
  return info;
}

void queue_all() {
  for (int i = 0; i < kQueued; ++i) {
    sigval value{};
    value.sival_ptr = reinterpret_cast<void*>(0x123400000000ULL + turn_number * 100 + i);
    must(sigqueue(getpid(), SIGRTMIN, value), "sigqueue");
    expect(pthread_sigqueue(pthread_self(), SIGRTMIN + 1, value) == 0, "pthread_sigqueue");
  }
  must(kill(getpid(), SIGTERM), "kill");
  must(kill(getpid(), SIGTERM), "kill");  // a standard signal is pending once
}

void take_all() {
  for (const int signal : {SIGRTMIN, SIGRTMIN + 1}) {
    for (int i = 0; i < kQueued; ++i) {
      const siginfo_t info = take(signal);
      expect_equal(reinterpret_cast<std::uint64_t>(info.si_value.sival_ptr),
                   0x123400000000ULL + turn_number * 100 + i, "value of a queued signal");
      expect_equal(info.si_code, SI_QUEUE, "code of a queued signal");
      expect_equal(info.si_pid, getpid(), "sender of a queued signal");
    }
  }
  const siginfo_t info = take(SIGTERM);
  expect_equal(info.si_code, SI_USER, "code of SIGTERM");
  sigset_t pending;
  must(sigpending(&pending), "sigpending");
  for (int signal = 1; signal < NSIG; ++signal) {
    expect(sigismember(&pending, signal) != 1, "a signal arrived twice");
  }
}

void turn() {
  ++turn_number;
  queue_all();
  for (int i = 0; i < 3; ++i) {
    check_actions();
    const int before = usr1_seen;
    expect(pthread_kill(pthread_self(), SIGUSR1) == 0, "pthread_kill");
    expect_equal(usr1_seen.load(), before + 1, "SIGUSR1 was not delivered once");
    selfcheck::sleep_ms(3);
  }
  stack_seen = 0;
  must(raise(SIGUSR2), "raise");
  expect_equal(stack_seen.load(), 1, "the handler did not run on its alternate stack");
  take_all();
}

}  // namespace

int main(int argc, char** argv) {
  return selfcheck::run_workload(argc, argv, set_up, turn, [] {});
}
