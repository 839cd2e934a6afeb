// Property 1 of the design, for this layer: an agent that is killed at any instant leaves a process
// that goes on by itself, and the next agent finds what is left of the first.
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#include <atomic>
#include <random>
#include <thread>

#include "common/remote/remote_task.h"
#include "common/remote/test_child.h"

namespace godwit {
namespace {

using testing::Child;
using testing::Shared;
using testing::traces_of_us;
using testing::wait_until;

constexpr int kKills = 200;

struct Workload {
  std::atomic<bool> ready{false}, end{false};
  std::atomic<std::uint64_t> errors{0};
  std::atomic<std::uint64_t> computed{0}, slept{0}, exchanged{0}, signalled{0}, clocked{0};
  std::atomic<int> first_error{0};

  void check(bool holds, int line) {
    if (holds) return;
    int none = 0;
    first_error.compare_exchange_strong(none, line);
    ++errors;
  }
  std::vector<std::uint64_t> progress() const {
    return {computed, slept, exchanged, signalled, clocked};
  }
};

// Many values alive at once, so that each register matters; the same every time.
std::uint64_t compute(std::uint64_t seed) {
  std::uint64_t a = seed, b = a + 1, c = b + 1, d = c + 1, e = d + 1, f = e + 1, g = f + 1;
  double p = 1, q = 2, r = 3, s = 4, t = 5, u = 6, v = 7, w = 8;
  for (int i = 0; i < 3000; ++i) {
    a = a * 6364136223846793005u + b, b ^= c >> 7, c += d << 3, d ^= e * 31;
    e += f >> 5, f ^= g << 2, g += a;
    p = q * 0.5 + 1, q = r * 0.25 + p, r = s * 0.5 + 2, s = t * 0.125 + q;
    t = u * 0.5 + r, u = v * 0.25 + s, v = w * 0.5 + t, w = p * 0.25 + u;
  }
  return (a ^ b ^ c ^ d ^ e ^ f ^ g) + static_cast<std::uint64_t>(p + q + r + s + t + u + v + w);
}

void sleep_and_check(Workload& load) {
  while (!load.end) {
    const timespec time{0, 1'500'000};
    const std::int64_t start = monotonic_ns();
    load.check(nanosleep(&time, nullptr) == 0, __LINE__);
    load.check(monotonic_ns() - start >= 1'500'000, __LINE__);
    ++load.slept;
  }
}

void exchange_and_check(Workload& load, int out, int in, bool first) {
  for (std::uint64_t next = 0; !load.end; ++next) {
    if (first && write(out, &next, sizeof next) != sizeof next) load.check(false, __LINE__);
    std::uint64_t got = 0;
    if (read(in, &got, sizeof got) != sizeof got) return;
    load.check(got == next, __LINE__);
    if (!first && write(out, &got, sizeof got) != sizeof got) load.check(false, __LINE__);
    ++load.exchanged;
  }
}

thread_local std::atomic<std::uint64_t> handled{0};
thread_local std::atomic<std::uint64_t> out_of_order{0};

// Queued signals with a number each: none may be lost, doubled or come before an earlier one.
void signal_and_check(Workload& load, useconds_t pause_us) {
  // All processes of a user share what may be queued: something is left to the others.
  const rlimit queued_max{2000, 2000};
  setrlimit(RLIMIT_SIGPENDING, &queued_max);
  struct sigaction action {};
  action.sa_sigaction = [](int, siginfo_t* info, void*) {
    if (static_cast<std::uint64_t>(info->si_value.sival_int) != handled) {
      out_of_order = out_of_order + 1;
    }
    handled = handled + 1;
  };
  action.sa_flags = SA_SIGINFO | SA_RESTART;
  sigaction(SIGRTMIN + 3, &action, nullptr);
  const auto self = pthread_self();
  std::thread sender([&, self] {
    for (int number = 0; !load.end; ++number) {
      const sigval value{.sival_int = number};
      while (pthread_sigqueue(self, SIGRTMIN + 3, value) == EAGAIN) usleep(100);
      load.signalled = static_cast<std::uint64_t>(number) + 1;
      if (pause_us != 0) usleep(pause_us);
    }
  });
  const std::uint64_t expected = compute(99);
  while (!load.end) load.check(compute(99) == expected, __LINE__);
  sender.join();
  for (int i = 0; i < 1000 && handled != load.signalled; ++i) usleep(1000);
  const std::uint64_t count = load.signalled;
  load.check(handled == count, __LINE__);
  load.check(out_of_order == 0, __LINE__);
}

int work(Workload& load) {
  int one[2], two[2];
  if (pipe(one) != 0 || pipe(two) != 0) return 2;
  std::vector<std::thread> threads;
  for (const std::uint64_t seed : {1u, 77u}) {
    threads.emplace_back([&, seed] {
      const std::uint64_t expected = compute(seed);
      while (!load.end) {
        load.check(compute(seed) == expected, __LINE__);
        ++load.computed;
      }
    });
  }
  threads.emplace_back([&] { sleep_and_check(load); });
  threads.emplace_back([&] { exchange_and_check(load, one[1], two[0], true); });
  threads.emplace_back([&] { exchange_and_check(load, two[1], one[0], false); });
  threads.emplace_back([&] { signal_and_check(load, 300); });
  load.ready = true;
  std::int64_t last = 0;
  while (!load.end) {
    const std::int64_t now = monotonic_ns();
    load.check(now >= last, __LINE__);
    last = now;
    ++load.clocked;
  }
  usleep(20'000);
  close(one[1]), close(two[1]);
  for (std::thread& thread : threads) thread.join();
  return load.errors == 0 ? 0 : 3;
}

// Does all there is to do, over and over.
int meddle(pid_t pid, unsigned seed, std::atomic<bool>& begun) {
  std::minstd_rand random(seed);
  for (;;) {
    RemoteTask task = RemoteTask::attach(pid);
    begun = true;
    for (int stop = 0; stop < 3; ++stop) {
      SyscallBatch batch;
      const DataAt path = batch.put_string("/proc/self/stat");
      const RowResult fd = batch.add(SYS_openat, {AT_FDCWD, path, O_CLOEXEC, 0});
      const std::size_t calls = random() % 300;
      for (std::size_t i = 0; i < calls; ++i) batch.add(SYS_getppid, {});
      batch.add(SYS_close, {fd});
      task.stop();
      task.run(batch);
      std::vector<Tracee*> all;
      for (Tracee& thread : task.threads()) all.push_back(&thread);
      task.run_on_each(all, batch, [](Tracee&, const BatchOutcome&) {});
      for (int i = 0; i < 3; ++i) {
        task.run_on(task.threads()[random() % task.threads().size()], batch);
      }
      if (random() % 4 == 0) task.step_out_of_vdso(task.leader());
      task.resume();
    }
    if (random() % 2 == 0) task.detach();
  }
}

// The agent dies between two steps of a stop: what it holds up at that moment goes on as well.
TEST(AgentDeath, LosesNoSignalThatItHoldsUp) {
  Shared<Workload> load;
  Child child([&] {
    load->ready = true;
    signal_and_check(*load, 0);
    return load->errors == 0 ? 0 : 3;
  });
  ASSERT_TRUE(wait_until([&] { return load->ready.load(); }));
  std::minstd_rand random(static_cast<unsigned>(getpid()));
  for (int i = 0; i < kKills; ++i) {
    Shared<std::atomic<bool>> begun;
    Child agent([&] {
      for (;;) {
        RemoteTask task = RemoteTask::attach(child.pid());
        *begun = true;
        for (int stop = 0; stop < 100; ++stop) {
          task.stop();
          task.resume();
        }
      }
      return 0;
    });
    ASSERT_TRUE(wait_until([&] { return begun->load(); }));
    usleep(random() % 2000);
    kill(agent.pid(), SIGKILL);
    ASSERT_EQ(agent.wait(), 1000 + SIGKILL) << "the agent failed by itself, round " << i;
  }
  load->end = true;
  EXPECT_EQ(child.wait(), 0) << "line " << load->first_error << ": " << load->signalled << " sent";
}

std::size_t count_fds(pid_t pid) {
  std::size_t count = 0;
  for (int fd = 0; fd < 256; ++fd) {
    count +=
        access(("/proc/" + std::to_string(pid) + "/fd/" + std::to_string(fd)).c_str(), F_OK) == 0;
  }
  return count;
}

// What each thread does, for a story.
std::string threads_of(pid_t pid) {
  const std::string stat = read_file(fmt::format("/proc/{}/stat", pid));
  // The last field (proc_pid_stat(5)): how it ended, if it did.
  std::string all = "wait status" + stat.substr(std::min(stat.size(), stat.find_last_of(' ')));
  for (const pid_t tid : list_threads(pid)) {
    const std::string folder = fmt::format("/proc/{}/task/{}/", pid, tid);
    all += fmt::format("\nthread {}: {}", tid, read_file(folder + "syscall"));
    const std::string status = read_file(folder + "status");
    for (const char* name : {"State:", "TracerPid:", "SigPnd:", "SigBlk:"}) {
      const std::size_t at = status.find(name);
      if (at != status.npos) all += status.substr(at, status.find('\n', at) - at) + "  ";
    }
  }
  return all;
}

TEST(AgentDeath, LeavesTheTaskRunning) {
  Shared<Workload> load;
  Child child([&] { return work(*load); });
  ASSERT_TRUE(wait_until([&] { return load->ready.load(); }));
  const std::size_t fds = count_fds(child.pid());
  std::minstd_rand random(static_cast<unsigned>(getpid()));
  int with_leftovers = 0;
  for (int i = 0; i < kKills; ++i) {
    Shared<std::atomic<bool>> begun;
    Child agent([&] { return meddle(child.pid(), static_cast<unsigned>(i), *begun); });
    // Every second one dies in its work also where it takes long to begin.
    ASSERT_TRUE(i % 2 == 0 || wait_until([&] { return begun->load(); }));
    usleep(1000 + random() % 15'000);
    kill(agent.pid(), SIGKILL);
    ASSERT_EQ(agent.wait(), 1000 + SIGKILL) << "the agent failed by itself, round " << i;
    with_leftovers += traces_of_us(child.pid()).empty() ? 0 : 1;
    const auto before = load->progress();
    ASSERT_TRUE(wait_until([&] {
      const auto now = load->progress();
      bool all = true;
      for (std::size_t n = 0; n < now.size(); ++n) all &= now[n] > before[n];
      return all;
    })) << "something stands still after round "
        << i << ": " << threads_of(child.pid());
    ASSERT_EQ(load->errors, 0u) << "line " << load->first_error << ", round " << i;
  }
  EXPECT_GT(with_leftovers, kKills / 10);  // else the kills missed the interesting instants
  RemoteTask task = RemoteTask::attach(child.pid());
  task.stop();
  task.detach();
  EXPECT_EQ(traces_of_us(child.pid()), "");
  EXPECT_EQ(count_fds(child.pid()), fds);
  load->end = true;
  EXPECT_EQ(child.wait(), 0) << "line " << load->first_error;
}

}  // namespace
}  // namespace godwit
