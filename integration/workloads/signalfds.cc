// signalfd: masks, queued signals with their values, a mask that is changed on the way.
#include <poll.h>
#include <signal.h>
#include <sys/signalfd.h>

#include "integration/workloads/selfcheck.h"

using selfcheck::expect;
using selfcheck::expect_equal;
using selfcheck::must;

namespace {

struct SignalFds {
  int users = -1;      // SIGUSR1, SIGRTMIN+1
  int real_time = -1;  // SIGRTMIN+2: something is always pending
  int changing = -1;   // the mask changes at each turn
  std::uint64_t turns = 0;
};

sigset_t set_of(std::initializer_list<int> signals) {
  sigset_t out;
  sigemptyset(&out);
  for (const int signal : signals) sigaddset(&out, signal);
  return out;
}

void queue(int signal, int value) {
  sigval with{};
  with.sival_int = value;
  must(sigqueue(getpid(), signal, with), "sigqueue");
}

bool readable(int fd) {
  pollfd entry{fd, POLLIN, 0};
  return must(poll(&entry, 1, 0), "poll") == 1;
}

signalfd_siginfo take(int fd) {
  signalfd_siginfo info{};
  expect_equal(read(fd, &info, sizeof info), static_cast<ssize_t>(sizeof info), "read a signal");
  return info;
}

void set_up(SignalFds& all) {
  const sigset_t blocked = set_of({SIGUSR1, SIGUSR2, SIGRTMIN + 1, SIGRTMIN + 2, SIGRTMIN + 3});
  must(sigprocmask(SIG_BLOCK, &blocked, nullptr), "sigprocmask");
  const sigset_t users = set_of({SIGUSR1, SIGRTMIN + 1});
  all.users = must(signalfd(-1, &users, SFD_NONBLOCK | SFD_CLOEXEC), "signalfd");
  const sigset_t real_time = set_of({SIGRTMIN + 2});
  all.real_time = must(signalfd(-1, &real_time, 0), "signalfd");
  const sigset_t nothing = set_of({});
  all.changing = must(signalfd(-1, &nothing, SFD_NONBLOCK), "signalfd");
  queue(SIGRTMIN + 2, 0);
  queue(SIGRTMIN + 2, 1);
}

void turn(SignalFds& all) {
  const int value = static_cast<int>(all.turns);
  // Two values always wait; they come out in order.
  queue(SIGRTMIN + 2, value + 2);
  expect_equal(take(all.real_time).ssi_int, value, "the value of the signal that waited");
  expect(!readable(all.users), "a signal came from nowhere");
  must(kill(getpid(), SIGUSR1), "kill");
  queue(SIGRTMIN + 1, value * 7);
  expect(readable(all.users), "SIGUSR1 is not readable");
  expect_equal(take(all.users).ssi_signo, static_cast<std::uint32_t>(SIGUSR1), "the first signal");
  const signalfd_siginfo second = take(all.users);
  expect_equal(second.ssi_int, value * 7, "the value");
  expect_equal(second.ssi_pid, static_cast<std::uint32_t>(getpid()), "the sender");
  expect((fcntl(all.users, F_GETFL) & O_NONBLOCK) != 0, "O_NONBLOCK is gone");
  expect_equal(fcntl(all.users, F_GETFD), FD_CLOEXEC, "close-on-exec");
  // SIGUSR2 waits; whether the third descriptor shows it depends on its mask.
  if (all.turns == 0) must(kill(getpid(), SIGUSR2), "kill");
  const bool shown = all.turns % 2 == 1;
  expect(readable(all.changing) == shown, "the mask that changes is another one");
  const sigset_t mask = shown ? set_of({SIGRTMIN + 3}) : set_of({SIGUSR2});
  expect_equal(must(signalfd(all.changing, &mask, 0), "signalfd"), all.changing, "signalfd");
  ++all.turns;
}

void final_check(SignalFds& all) {
  turn(all);
  const sigset_t mask = set_of({SIGUSR2});
  must(signalfd(all.changing, &mask, 0), "signalfd");
  expect_equal(take(all.changing).ssi_signo, static_cast<std::uint32_t>(SIGUSR2),
               "the signal that waited");
  take(all.real_time);
  take(all.real_time);
  expect(!readable(all.real_time), "more signals than were sent");
}

}  // namespace

int main(int argc, char** argv) {
  SignalFds all;
  return selfcheck::run_workload(
      argc, argv, [&] { set_up(all); }, [&] { turn(all); }, [&] { final_check(all); });
}
