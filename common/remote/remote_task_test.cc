#include "common/remote/remote_task.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#include <algorithm>
#include <atomic>
#include <set>
#include <thread>

#include "common/base/clock.h"
#include "common/base/error.h"
#include "common/remote/test_child.h"

namespace godwit {
namespace {

using testing::Child;
using testing::Shared;
using testing::traces_of_us;
using testing::wait_asleep;
using testing::wait_until;

int sleep_forever() {
  for (;;) pause();
}

TEST(RemoteTask, RunsCallsInTheTask) {
  const Child child(sleep_forever);
  ASSERT_TRUE(wait_asleep(child.pid()));
  RemoteTask task = RemoteTask::attach(child.pid());
  task.stop();
  SyscallBatch batch;
  const RowResult pid = batch.add(SYS_getpid, {});
  const RowResult parent = batch.add(SYS_getppid, {});
  const BatchOutcome outcome = task.run(batch);
  EXPECT_TRUE(outcome.complete());
  EXPECT_EQ(outcome[pid], child.pid());
  EXPECT_EQ(outcome[parent], getpid());
  task.detach();
  EXPECT_EQ(traces_of_us(child.pid()), "");
  EXPECT_EQ(read_proc_status(child.pid()).tracer, 0);
}

int spin_when_nobody_else_does() {
  prctl(PR_SET_TIMERSLACK, 123'456);
  const sched_param none{};
  sched_setscheduler(0, SCHED_IDLE, &none);
  for (;;) sched_yield();
}

int spin_before_all_others() {
  setpriority(PRIO_PROCESS, 0, -20);
  for (;;) continue;
}

TEST(RemoteTask, StopsAThreadThatGetsNoProcessor) {
  cpu_set_t first;
  CPU_ZERO(&first);
  CPU_SET(0, &first);
  cpu_set_t own;
  ASSERT_EQ(sched_getaffinity(0, sizeof own, &own), 0);
  ASSERT_EQ(sched_setaffinity(0, sizeof first, &first), 0);  // for the children, which inherit it
  const Child child(spin_when_nobody_else_does);
  ASSERT_TRUE(wait_until([&] { return sched_getscheduler(child.pid()) == SCHED_IDLE; }));
  const Child greedy[] = {Child(spin_before_all_others), Child(spin_before_all_others)};
  ASSERT_EQ(sched_setaffinity(0, sizeof own, &own), 0);
  usleep(50'000);
  RemoteTask task = RemoteTask::attach(child.pid());
  const std::int64_t start_ns = monotonic_ns();
  task.stop();
  EXPECT_LT(monotonic_ns() - start_ns, 1'000'000'000);
  EXPECT_EQ(sched_getscheduler(child.pid()), SCHED_IDLE);
  const std::string slack = "/proc/" + std::to_string(child.pid()) + "/timerslack_ns";
  EXPECT_EQ(godwit::read_file(slack), "123456\n");
  task.detach();
}

TEST(RemoteTask, RowsReferToEarlierResultsAndData) {
  const Child child(sleep_forever);
  RemoteTask task = RemoteTask::attach(child.pid());
  task.stop();
  SyscallBatch batch;
  const DataAt path = batch.put_string("/proc/self/comm");
  const DataAt text = batch.reserve(64);
  const RowResult fd = batch.add(SYS_openat, {AT_FDCWD, path, O_RDONLY, 0}, "/proc/self/comm");
  const RowResult got = batch.add(SYS_read, {fd, text, 64});
  const RowResult copy = batch.add(SYS_dup3, {fd, 77, O_CLOEXEC});
  batch.add(SYS_close, {copy});
  batch.add(SYS_close, {fd});
  const BatchOutcome outcome = task.run(batch);
  std::string comm(reinterpret_cast<const char*>(outcome.bytes(text, 64).data()),
                   static_cast<std::size_t>(outcome[got]));
  EXPECT_EQ(comm, godwit::read_file("/proc/" + std::to_string(child.pid()) + "/comm"));
  EXPECT_EQ(outcome[copy], 77);
  task.detach();
}

TEST(RemoteTask, StopsAtTheFirstFailureAndNamesIt) {
  const Child child(sleep_forever);
  RemoteTask task = RemoteTask::attach(child.pid());
  task.stop();
  SyscallBatch batch;
  const DataAt path = batch.put_string("/no/such/file");
  batch.add(SYS_getpid, {});
  batch.add_may_fail(SYS_close, {12345});
  const RowResult open = batch.add(SYS_openat, {AT_FDCWD, path, O_RDONLY, 0}, "fd 7");
  batch.add(SYS_exit_group, {3});
  const BatchOutcome outcome = task.try_run(batch);
  EXPECT_FALSE(outcome.complete());
  ASSERT_EQ(outcome.results().size(), 3u);
  EXPECT_EQ(outcome.results()[1], -EBADF);
  EXPECT_EQ(outcome[open], -ENOENT);
  try {
    task.run(batch);
    FAIL() << "no exception";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ENOENT);
    EXPECT_EQ(std::string(error.what()),
              "fd 7: openat(-100, data+0 \"/no/such/file\", 0, 0) in process " +
                  std::to_string(child.pid()) + ", row 2 of 4: No such file or directory");
  }
  task.detach();
}

TEST(RemoteTask, TellsAFailureFromALargeResult) {
  // -4096 and above 4095 below zero are addresses, not errors: lseek of a memory file gives them.
  const Child child(sleep_forever);
  RemoteTask task = RemoteTask::attach(child.pid());
  task.stop();
  SyscallBatch batch;
  const DataAt path = batch.put_string("/proc/self/mem");
  const RowResult fd = batch.add(SYS_openat, {AT_FDCWD, path, O_RDONLY, 0});
  const RowResult at = batch.add(SYS_lseek, {fd, -8192, SEEK_SET});
  const RowResult after = batch.add(SYS_close, {fd});
  const BatchOutcome outcome = task.run(batch);
  EXPECT_EQ(outcome[at], -8192);
  EXPECT_EQ(outcome[after], 0);
  task.detach();
}

TEST(RemoteTask, RunsTenThousandRowsAndMuchData) {
  const Child child(sleep_forever);
  RemoteTask task = RemoteTask::attach(child.pid());
  task.stop();
  SyscallBatch batch;
  const std::vector<std::byte> much(1 << 20, std::byte{7});
  const DataAt data = batch.put(much);
  const RowResult fd = batch.add(SYS_eventfd2, {0, 0});
  for (int i = 0; i < 10'000; ++i) batch.add(SYS_fcntl, {fd, F_SETFD, i % 2});
  const RowResult flags = batch.add(SYS_fcntl, {fd, F_GETFD});
  batch.add(SYS_close, {fd});
  const BatchOutcome outcome = task.run(batch);
  EXPECT_EQ(outcome.results().size(), 10'003u);
  EXPECT_EQ(outcome[flags], 1);
  EXPECT_EQ(outcome.bytes(data, much.size())[much.size() - 1], std::byte{7});
  task.detach();
  EXPECT_EQ(traces_of_us(child.pid()), "");
}

TEST(RemoteTask, ReadsAndWritesMemory) {
  Shared<std::uint64_t> value;
  *value = 41;
  const Child child(sleep_forever);
  RemoteTask task = RemoteTask::attach(child.pid());
  task.stop();
  const auto at = reinterpret_cast<Address>(&*value);
  EXPECT_EQ(task.read_value<std::uint64_t>(at), 41u);
  const std::uint64_t next = 42;
  task.write_memory(at, std::as_bytes(std::span(&next, 1)));
  EXPECT_EQ(*value, 42u);
  std::byte byte{};
  EXPECT_THROW(task.read_memory(16, std::span(&byte, 1)), Error);
  task.detach();
}

TEST(RemoteTask, CopiesDescriptorsOut) {
  const int event = eventfd(5, 0);
  const Child child(sleep_forever);
  close(event);
  RemoteTask task = RemoteTask::attach(child.pid());
  const UniqueFd copy = task.copy_fd(event);
  std::uint64_t count = 0;
  ASSERT_EQ(read(copy.get(), &count, sizeof count), 8);
  EXPECT_EQ(count, 5u);
  EXPECT_THROW(task.copy_fd(4321), Error);
}

TEST(RemoteTask, KnowsItsScratch) {
  const Child child(sleep_forever);
  RemoteTask task = RemoteTask::attach(child.pid());
  task.stop();
  const auto count = [&] {
    int scratch = 0;
    for (const MapsLine& line : read_maps(child.pid())) scratch += task.is_scratch(line.range);
    return scratch;
  };
  EXPECT_EQ(count(), 0);
  SyscallBatch batch;
  batch.add(SYS_getpid, {});
  task.run(batch);
  EXPECT_EQ(count(), 1);
  task.unmap_scratch();
  EXPECT_EQ(count(), 0);
  task.run(batch);
  EXPECT_EQ(count(), 1);
  task.detach();
}

TEST(RemoteTask, SaysWhatItCannotAttachTo) {
  const Child child(sleep_forever);
  const Child gone([] { return 0; });
  ASSERT_EQ(ptrace(PTRACE_SEIZE, child.pid(), 0, 0), 0);
  EXPECT_THROW(RemoteTask::attach(child.pid()), Error);
  EXPECT_THROW(RemoteTask::attach(999'999'999), Error);
}

// 200 threads count on while they are stopped, asked and let go; new ones appear meanwhile.
TEST(RemoteTask, StopsAllThreads) {
  struct Counters {
    std::atomic<bool> ready, born_more, end;
    std::atomic<std::uint64_t> count[200];
  };
  Shared<Counters> shared;
  Child child([&] {
    std::vector<std::thread> threads;
    for (int i = 0; i < 200; ++i) {
      threads.emplace_back([&, i] {
        while (!shared->end) {
          shared->count[i]++;
          usleep(2000);
        }
      });
    }
    shared->ready = true;
    while (!shared->end) std::thread([&] { shared->born_more = true; }).join();
    for (std::thread& thread : threads) thread.join();
    return 0;
  });
  ASSERT_TRUE(wait_until([&] { return shared->ready && shared->born_more; }));
  RemoteTask task = RemoteTask::attach(child.pid());
  for (int round = 0; round < 10; ++round) {
    task.stop();
    EXPECT_GE(task.threads().size(), 201u);
    EXPECT_EQ(task.threads().front().tid(), child.pid());
    EXPECT_EQ(task.threads().size(), list_threads(child.pid()).size());
    std::uint64_t before = 0, after = 0;
    for (const auto& count : shared->count) before += count;
    SyscallBatch batch;
    const RowResult tid = batch.add(SYS_gettid, {});
    for (Tracee& thread : task.threads()) EXPECT_EQ(task.run_on(thread, batch)[tid], thread.tid());
    std::vector<Tracee*> all;
    for (Tracee& thread : task.threads()) all.push_back(&thread);
    std::vector<std::int64_t> answers;
    task.run_on_each(all, batch, [&](Tracee& thread, const BatchOutcome& outcome) {
      EXPECT_EQ(outcome[tid], thread.tid());
      answers.push_back(outcome[tid]);
    });
    EXPECT_TRUE(std::ranges::equal(answers, all, {}, {}, &Tracee::tid));
    for (const auto& count : shared->count) after += count;
    EXPECT_EQ(before, after);
    task.resume();
    EXPECT_TRUE(wait_until([&] {
      std::uint64_t now = 0;
      for (const auto& count : shared->count) now += count;
      return now > after;
    }));
  }
  task.detach();
  shared->end = true;
  EXPECT_EQ(child.wait(), 0);
}

// Each has its own data, and whatever goes wrong with one leaves all of them as they were.
TEST(RemoteTask, RunsOnEachOfManyThreads) {
  struct Counters {
    std::atomic<int> ready{0};
    std::atomic<bool> end{false};
  };
  Shared<Counters> shared;
  constexpr int kThreads = 30;
  Child child([&] {
    std::vector<std::thread> threads;
    for (int i = 0; i < kThreads; ++i) {
      threads.emplace_back([&, i] {
        pthread_setname_np(pthread_self(), fmt::format("number {}", i).c_str());
        ++shared->ready;
        while (!shared->end) usleep(1000);
      });
    }
    for (std::thread& thread : threads) thread.join();
    return 0;
  });
  ASSERT_TRUE(wait_until([&] { return shared->ready == kThreads; }));
  RemoteTask task = RemoteTask::attach(child.pid());
  task.stop();
  std::vector<Tracee*> all;
  for (Tracee& thread : task.threads()) {
    if (thread.tid() != child.pid()) all.push_back(&thread);
  }
  SyscallBatch batch;
  const DataAt name = batch.reserve(16);
  const DataAt file = batch.put_string("/nowhere");
  batch.add(SYS_prctl, {PR_GET_NAME, name, 0, 0, 0});
  const RowResult missing = batch.add_may_fail(SYS_openat, {AT_FDCWD, file, 0, 0});
  std::set<std::string> names;
  task.run_on_each(all, batch, [&](Tracee&, const BatchOutcome& outcome) {
    EXPECT_EQ(outcome[missing], -ENOENT);
    names.insert(reinterpret_cast<const char*>(outcome.bytes(name, 16).data()));
  });
  EXPECT_EQ(names.size(), static_cast<std::size_t>(kThreads));
  batch.add(SYS_openat, {AT_FDCWD, file, 0, 0}, "a file");
  try {
    task.run_on_each(all, batch, [](Tracee&, const BatchOutcome&) { FAIL(); });
    ADD_FAILURE() << "no error";
  } catch (const Error& error) {
    EXPECT_NE(std::string_view(error.what()).find("/nowhere"), std::string_view::npos)
        << error.what();
  }
  SyscallBatch ask;
  const RowResult tid = ask.add(SYS_gettid, {});
  int taken = 0;
  EXPECT_THROW(task.run_on_each(all, ask,
                                [&](Tracee&, const BatchOutcome&) {
                                  if (++taken == 3) throw Error("enough");
                                }),
               Error);
  EXPECT_EQ(taken, 3);
  for (Tracee* thread : all) EXPECT_EQ(task.run_on(*thread, ask)[tid], thread->tid());
  task.detach();
  shared->end = true;
  EXPECT_EQ(child.wait(), 0);
}

// A program that calls execve between two stops has another address space.
TEST(RemoteTask, StopsSomeWhileOthersRun) {
  testing::Shared<std::atomic<std::uint64_t>> turns;
  testing::Child child([&]() -> int {
    std::thread sleeper([] {
      for (;;) pause();
    });
    for (;;) turns->fetch_add(1);
  });
  while (list_threads(child.pid()).size() < 2) usleep(100);
  const pid_t sleeper = list_threads(child.pid()).at(1);
  RemoteTask task = RemoteTask::attach(child.pid());
  const pid_t gone = 0x3ffffff;
  task.stop_some(std::vector{sleeper, gone});
  ASSERT_EQ(task.threads().size(), 1u);
  EXPECT_THROW(task.stop_some(std::span(&sleeper, 1)), Error);
  SyscallBatch batch;
  const RowResult tid = batch.add(SYS_gettid, {});
  EXPECT_EQ(task.run_on(task.threads().front(), batch)[tid], sleeper);
  const std::uint64_t before = turns->load();
  while (turns->load() == before) usleep(100);  // the leader runs
  task.resume();
  EXPECT_TRUE(testing::wait_asleep(sleeper));
  task.stop();
  EXPECT_EQ(task.threads().size(), 2u);
}

TEST(RemoteTask, FollowsExecve) {
  Shared<std::atomic<bool>> go;
  const Child child([&] {
    while (!*go) usleep(100);
    execl("/bin/sleep", "sleep", "1000", nullptr);
    return 1;
  });
  RemoteTask task = RemoteTask::attach(child.pid());
  SyscallBatch batch;
  const RowResult pid = batch.add(SYS_getpid, {});
  task.stop();
  EXPECT_EQ(task.run(batch)[pid], child.pid());
  task.resume();
  *go = true;
  ASSERT_TRUE(wait_until([&] { return read_proc_stat(child.pid()).comm == "sleep"; }));
  task.stop();
  EXPECT_EQ(task.run(batch)[pid], child.pid());
  task.detach();
  EXPECT_EQ(traces_of_us(child.pid()), "");
}

}  // namespace
}  // namespace godwit
