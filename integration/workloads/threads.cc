// Threads, each with settings of its own that only it can see: name, nice, policy, affinity, I/O
// priority, timer slack, alternate stack, signal mask, thread-local values. Each looks at its own
// all the time and computes; threads also come and go.
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>

#include <atomic>
#include <thread>
#include <vector>

#include "integration/workloads/selfcheck.h"

namespace {

using selfcheck::expect;
using selfcheck::expect_equal;
using selfcheck::must;

constexpr int kThreads = 8;
constexpr int kOfThread = 1;  // IOPRIO_WHO_PROCESS: <linux/ioprio.h> is C only in some versions
constexpr std::size_t kStackBytes = 64 << 10;

std::atomic<bool> stop{false};
std::atomic<int> ready{0};
std::atomic<long> rounds[kThreads];
thread_local std::uint64_t own_number = 0;
thread_local char own_text[24] = "nothing";

struct Settings {
  int index;
  std::string name;
  int nice;
  int policy;
  long slack_ns;
  int io_priority;
  bool bound;
  sigset_t mask;
  std::vector<char> stack = std::vector<char>(kStackBytes);
  pid_t tid = 0;
};

Settings make_settings(int index) {
  Settings settings{.index = index,
                    .name = "\xe9quipier (" + std::to_string(index) + ")",  // no UTF-8
                    .nice = index % 4,
                    .policy = index % 3 == 1 ? SCHED_BATCH : SCHED_OTHER,
                    .slack_ns = 50'000 + index * 1'000,
                    .io_priority = index % 2 == 0 ? 0 : (2 << 13 | index % 8),
                    .bound = index % 2 == 1,
                    .mask = {}};
  sigemptyset(&settings.mask);
  sigaddset(&settings.mask, SIGRTMIN + index);
  return settings;
}

void apply(Settings& settings) {
  settings.tid = static_cast<pid_t>(syscall(SYS_gettid));
  own_number = 0x9e3779b97f4a7c15ULL * (settings.index + 1);
  snprintf(own_text, sizeof(own_text), "thread %d", settings.index);
  must(prctl(PR_SET_NAME, settings.name.c_str()), "set name");
  const sched_param none{};
  must(sched_setscheduler(0, settings.policy, &none), "set policy");
  must(setpriority(PRIO_PROCESS, settings.tid, settings.nice), "set nice");
  must(prctl(PR_SET_TIMERSLACK, settings.slack_ns), "set timer slack");
  must(syscall(SYS_ioprio_set, kOfThread, 0, settings.io_priority), "ioprio_set");
  if (settings.bound) {
    cpu_set_t cpus;
    CPU_ZERO(&cpus);
    CPU_SET(0, &cpus);
    must(sched_setaffinity(0, sizeof(cpus), &cpus), "sched_setaffinity");
  }
  const stack_t stack{settings.stack.data(), 0, kStackBytes};
  must(sigaltstack(&stack, nullptr), "sigaltstack");
  expect(pthread_sigmask(SIG_SETMASK, &settings.mask, nullptr) == 0, "pthread_sigmask");
}

void check(const Settings& settings) {
  const std::string who = settings.name + ": ";
  expect_equal(syscall(SYS_gettid), settings.tid, who + "thread id");
  expect_equal(own_number, 0x9e3779b97f4a7c15ULL * (settings.index + 1),
               who + "thread-local value");
  expect(own_text == "thread " + std::to_string(settings.index), who + "thread-local text");
  char name[16];
  must(prctl(PR_GET_NAME, name), who + "get name");
  expect(settings.name.substr(0, 15) == name, who + "name became " + name);
  expect_equal(sched_getscheduler(0), settings.policy, who + "policy");
  errno = 0;
  expect_equal(getpriority(PRIO_PROCESS, settings.tid), settings.nice, who + "nice");
  expect_equal(prctl(PR_GET_TIMERSLACK), settings.slack_ns, who + "timer slack");
  expect_equal(syscall(SYS_ioprio_get, kOfThread, 0), settings.io_priority, who + "I/O priority");
  cpu_set_t cpus;
  must(sched_getaffinity(0, sizeof(cpus), &cpus), who + "sched_getaffinity");
  if (settings.bound) expect_equal(CPU_COUNT(&cpus), 1, who + "bound processors");
  stack_t stack{};
  must(sigaltstack(nullptr, &stack), who + "sigaltstack");
  expect(stack.ss_sp == settings.stack.data() && stack.ss_size == kStackBytes,
         who + "signal stack");
  sigset_t mask;
  expect(pthread_sigmask(SIG_SETMASK, nullptr, &mask) == 0, who + "pthread_sigmask");
  for (int signal = 1; signal < NSIG; ++signal) {
    expect(sigismember(&mask, signal) == sigismember(&settings.mask, signal),
           who + "mask of signal " + std::to_string(signal));
  }
}

void work(int index) {
  Settings settings = make_settings(index);
  apply(settings);
  check(settings);
  ++ready;
  std::uint64_t state = index + 1;
  std::uint64_t expected = state;
  while (!stop) {
    for (int step = 0; step < 1000; ++step) state = state * 6364136223846793005ULL + 1;
    for (int step = 0; step < 1000; ++step) expected = expected * 6364136223846793005ULL + 1;
    expect_equal(state, expected, "thread " + std::to_string(index) + " computed");
    check(settings);
    ++rounds[index];
    if (index % 2 == 0)
      selfcheck::sleep_ms(1);
    else
      sched_yield();
  }
  check(settings);
}

// A thread that lives for a moment: making and joining one must work at any time.
void one_short_thread() {
  static std::uint64_t count = 0;
  std::uint64_t seen = 0;
  ++count;
  std::thread([&] { seen = count; }).join();
  expect_equal(seen, count, "a new thread");
}

}  // namespace

int main(int argc, char** argv) {
  std::vector<std::thread> threads;
  return selfcheck::run_workload(
      argc, argv,
      [&] {
        for (int index = 0; index < kThreads; ++index) threads.emplace_back(work, index);
        while (ready < kThreads) selfcheck::sleep_ms(1);
      },
      one_short_thread,
      [&] {
        stop = true;
        for (std::thread& thread : threads) thread.join();
        for (const auto& count : rounds) expect(count > 0, "a thread never ran");
      });
}
