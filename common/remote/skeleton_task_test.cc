// Skeletons, built the way the destination does it. The program that they run in the end is the
// stub itself, which is position independent and knows calls only.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/syscall.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <random>

#include "common/base/error.h"
#include "common/kernel/pidfd.h"
#include "common/remote/remote_task.h"
#include "common/remote/test_child.h"

namespace godwit {
namespace {

using testing::Child;
using testing::Shared;
using testing::traces_of_us;
using testing::wait_until;

int sleep_forever() {
  for (;;) pause();
}

// The first of `count` free numbers in a row. The kernel hands out numbers upwards, so they are
// sought below the latest one: it comes to them last.
pid_t free_ids(int count) {
  const Child latest([] { return 0; });
  std::random_device random;  // another run of this test looks for some as well
  for (pid_t first = latest.pid();;) {
    first -= static_cast<pid_t>(random() % 500) + count;
    if (first < 300) first = 32'000;  // pid_max(5) is no smaller
    bool all_free = true;
    for (int i = 0; i < count; ++i) {
      all_free &= access(("/proc/" + std::to_string(first + i)).c_str(), F_OK) != 0;
    }
    if (all_free) return first;
  }
}

bool has_ended(pid_t pid) {
  const auto status = try_read_proc_status("/proc/" + std::to_string(pid));
  return !status || status->state == 'Z' || status->state == 'X';
}

std::vector<PageRange> ranges_of(pid_t pid) {
  std::vector<PageRange> ranges;
  for (const MapsLine& line : read_maps(pid)) ranges.push_back(line.range);
  return ranges;
}

bool is_special(const MapsLine& line) {
  return line.path == "[vdso]" || line.path.starts_with("[vvar");
}

// Unmaps all but the home, moves the vDSO with its data away; where the code of it stands then.
PageRange clear_address_space(RemoteTask& task) {
  SyscallBatch batch;
  const std::vector<MapsLine> maps = read_maps(task.host_pid());
  const PageRange place = find_hole({ranges_of(task.host_pid())}, 16 * kPageSize);
  Address first_special = 0;
  PageRange vdso;
  for (const MapsLine& line : maps) {
    if (is_special(line)) {
      if (first_special == 0) first_special = line.range.start;
      const Address to = place.start + (line.range.start - first_special);
      batch.add(SYS_mremap,
                {line.range.start, line.range.bytes(), line.range.bytes(),
                 MREMAP_MAYMOVE | MREMAP_FIXED, to},
                line.path);
      if (line.path == "[vdso]") vdso = {to, to + line.range.bytes()};
    } else if (!task.is_scratch(line.range) && line.path != "[vsyscall]") {
      batch.add(SYS_munmap, {line.range.start, line.range.bytes()}, line.path);
    }
  }
  task.run(batch);
  return vdso;
}

// A page of code and a page of rows, used by several threads at different offsets.
class Program {
 public:
  Program(RemoteTask& task, Address at) : task_(task), at_(at) {
    SyscallBatch batch;
    batch.add(SYS_mmap, {at, kPageSize, PROT_READ | PROT_EXEC,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0});
    batch.add(SYS_mmap, {at + kPageSize, kPageSize, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0});
    task.run(batch);
    task.write_memory(at, arch::stub_code());
  }
  arch::Registers entry(const std::vector<arch::StubRow>& rows, const arch::Registers& own) {
    const Address table = std::exchange(next_, next_ + rows.size() * sizeof(arch::StubRow));
    task_.write_memory(table, std::as_bytes(std::span(rows)));
    return arch::enter_stub_rows(own, at_, at_ + arch::stub_save_offset(), table, rows.size());
  }
  Address put_text(const char* text) {
    task_.write_memory(at_ + kPageSize + 3000 + texts_,
                       std::as_bytes(std::span(text, strlen(text) + 1)));
    return at_ + kPageSize + 3000 + std::exchange(texts_, texts_ + strlen(text) + 1);
  }

 private:
  RemoteTask& task_;
  Address at_;
  Address next_ = at_ + kPageSize;
  std::uint64_t texts_ = 0;
};

arch::StubRow row(long number, std::uint64_t a = 0, std::uint64_t b = 0, std::uint64_t c = 0) {
  return {number, {a, b, c, 0, 0, 0}, 0, 1, 0};
}

std::string read_available(int fd, std::size_t bytes) {
  std::string text;
  pollfd ready{fd, POLLIN, 0};
  while (text.size() < bytes && poll(&ready, 1, 3000) == 1) {
    char c = 0;
    if (read(fd, &c, 1) != 1) break;
    text += c;
  }
  std::sort(text.begin(), text.end());
  return text;
}

TEST(Skeleton, IsBuiltAndRuns) {
  int pipe_fds[2];
  ASSERT_EQ(pipe(pipe_fds), 0);
  const UniqueFd from(pipe_fds[0]);
  UniqueFd to(pipe_fds[1]);
  const Child init(sleep_forever);
  const pid_t id = free_ids(3);
  RemoteTask parent = RemoteTask::adopt_skeleton(init.pid());
  const pid_t pid = parent.clone_process(id);
  EXPECT_EQ(pid, id);
  RemoteTask task = RemoteTask::adopt_skeleton(pid);
  EXPECT_EQ(read_proc_status(pid).parent, init.pid());

  const PageRange home = find_hole({ranges_of(pid)}, RemoteTask::kHomeBytes);
  task.move_home(home);
  const PageRange vdso = clear_address_space(task);
  Program program(task, find_hole({ranges_of(pid)}, 2 * kPageSize).start);
  task.clone_thread(id + 1);
  task.clone_thread(id + 2);
  EXPECT_EQ(list_threads(pid).size(), 3u);
  SyscallBatch ask;
  const RowResult tid = ask.add(SYS_gettid, {});
  for (Tracee& thread : task.threads()) EXPECT_EQ(task.run_on(thread, ask)[tid], thread.tid());
  task.leave_home(vdso);
  const std::vector<MapsLine> own = read_maps(getpid());
  const auto specials = std::ranges::count_if(own, [](const MapsLine& line) {
    return is_special(line) || line.path == "[vsyscall]";  // how many differs between processors
  });
  EXPECT_EQ(ranges_of(pid).size(), 2u + static_cast<std::size_t>(specials));  // and the program

  const auto fd = static_cast<std::uint64_t>(to.get());
  for (int i = 0; i < 3; ++i) {
    Tracee& thread = task.thread_by_host_tid(id + i);
    const char* const letters[] = {"L", "A", "B"};
    const Address letter = program.put_text(letters[i]);
    std::vector<arch::StubRow> rows = {row(SYS_write, fd, letter, 1)};
    if (i == 0) {
      rows.push_back(row(SYS_read, 700));  // a failing call in between
      rows.push_back(row(SYS_ppoll));
    } else {
      rows.push_back(row(SYS_exit));
    }
    thread.set_signal_mask(i == 0 ? 0x4000 : 0);
    thread.set_registers(program.entry(rows, thread.registers()));
  }
  task.let_live();
  task.detach();
  EXPECT_EQ(read_available(from.get(), 3), "ABL");
  EXPECT_EQ(traces_of_us(pid), "");
  EXPECT_EQ(read_proc_status(pid).signals_blocked, 0x4000u);
  EXPECT_EQ(read_proc_status(pid).tracer, 0);
  EXPECT_TRUE(wait_until([&] { return list_threads(pid).size() == 1; }));
  kill(pid, SIGKILL);
  EXPECT_TRUE(wait_until([&] { return has_ended(pid); }));
  parent.let_live();
  parent.detach();
  EXPECT_EQ(traces_of_us(init.pid()), "");
}

TEST(Skeleton, IsACopyOfItsMaker) {
  Shared<std::atomic<int>> value;
  const Child init([&] {
    *value = 1;
    pause();  // the copy wakes up here as well
    *value = *value + 10;
    return 5;
  });
  ASSERT_TRUE(wait_until([&] { return *value == 1; }));
  ASSERT_TRUE(testing::wait_asleep(init.pid()));
  RemoteTask parent = RemoteTask::adopt_skeleton(init.pid());
  const pid_t pid = parent.clone_process(0);
  RemoteTask task = RemoteTask::adopt_skeleton(pid);
  task.let_live();
  task.detach();
  EXPECT_EQ(traces_of_us(pid), "");
  EXPECT_TRUE(testing::wait_asleep(pid));
  kill(pid, SIGKILL);
  parent.let_live();
  parent.detach();
}

TEST(Skeleton, EndsOneThread) {
  const Child init(sleep_forever);
  RemoteTask task = RemoteTask::adopt_skeleton(init.pid());
  const pid_t id = free_ids(2);
  const pid_t first = task.clone_thread(id).tid();
  task.clone_thread(id + 1);
  task.end_thread(first);
  EXPECT_EQ(task.threads().size(), 2u);
  EXPECT_TRUE(wait_until([&] { return list_threads(init.pid()).size() == 2; }));
  const pid_t again = task.clone_thread(id).tid();  // the number is free again, or soon
  EXPECT_EQ(again, id);
  EXPECT_THROW(task.clone_thread(id), Error);
}

TEST(Skeleton, DiesWithTheAgentUntilItMayLive) {
  for (const bool live : {false, true}) {
    Shared<std::atomic<pid_t>> made;
    const Child init(sleep_forever);
    // The thread that is made has its registers, stack pointer included: both may only sleep.
    ASSERT_TRUE(testing::wait_asleep(init.pid()));
    Child agent([&] {
      RemoteTask parent = RemoteTask::adopt_skeleton(init.pid());
      const pid_t pid = parent.clone_process(0);
      RemoteTask task = RemoteTask::adopt_skeleton(pid);
      task.clone_thread(0);
      if (live) task.let_live();
      *made = pid;
      pause();
      return 0;
    });
    ASSERT_TRUE(wait_until([&] { return *made != 0; }));
    const pid_t pid = *made;
    kill(agent.pid(), SIGKILL);
    EXPECT_EQ(agent.wait(), 1000 + SIGKILL);
    if (live) {
      usleep(20'000);
      EXPECT_FALSE(has_ended(pid));
      kill(pid, SIGKILL);
    }
    EXPECT_TRUE(wait_until([&] { return has_ended(pid); }));
  }
}

TEST(Skeleton, IsEndedWhenItIsGivenUp) {
  const Child init(sleep_forever);
  { RemoteTask task = RemoteTask::adopt_skeleton(init.pid()); }
  EXPECT_TRUE(wait_until([&] { return has_ended(init.pid()); }));
}

TEST(Skeleton, AnOrdinaryTaskHasNoneOfIt) {
  const Child child(sleep_forever);
  RemoteTask task = RemoteTask::attach(child.pid());
  task.stop();
  EXPECT_THROW(task.clone_thread(0), Error);
  EXPECT_THROW(task.move_home({0x10000, 0x210000}), Error);
  task.detach();
}

}  // namespace
}  // namespace godwit
