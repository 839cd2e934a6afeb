// Tasks in unusual circumstances: another pid namespace, no vDSO, a frozen cgroup, an end in the
// middle; and agents that die at one chosen instant, killed by a row of their own batch.
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include <atomic>
#include <filesystem>

#include "common/base/error.h"
#include "common/remote/remote_task.h"
#include "common/remote/test_child.h"

namespace godwit {
namespace {

using testing::Child;
using testing::Shared;
using testing::traces_of_us;
using testing::wait_until;

SyscallBatch ask_pid() {
  SyscallBatch batch;
  batch.add(SYS_getpid, {});
  return batch;
}

TEST(SpecialPlaces, AnotherPidNamespace) {
  Shared<std::atomic<pid_t>> inner;
  const Child outer([&] {
    if (unshare(CLONE_NEWPID) != 0) return 1;
    const pid_t made = fork();
    if (made == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      for (;;) usleep(1000);
    }
    *inner = made;
    pause();
    return 0;
  });
  ASSERT_TRUE(wait_until([&] { return *inner != 0; }));
  RemoteTask task = RemoteTask::attach(*inner);
  for (int i = 0; i < 3; ++i) {
    task.stop();
    EXPECT_EQ(task.run(ask_pid()).results()[0], 1);
    task.resume();
  }
  task.detach();
  // A skeleton in there: the ids that are asked for are those inside.
  RemoteTask init = RemoteTask::adopt_skeleton(*inner);
  const pid_t pid = init.clone_process(77);
  EXPECT_NE(pid, 77);
  RemoteTask made = RemoteTask::adopt_skeleton(pid);
  EXPECT_EQ(made.run(ask_pid()).results()[0], 77);
  Tracee& thread = made.clone_thread(99);
  SyscallBatch ask_tid;
  ask_tid.add(SYS_gettid, {});
  EXPECT_EQ(made.run_on(thread, ask_tid).results()[0], 99);
}

TEST(SpecialPlaces, WithoutAVdso) {
  Shared<std::atomic<int>> stage;
  const Child child([&] {
    for (const MapsLine& line : read_maps(getpid())) {
      if (line.path == "[vdso]")
        munmap(reinterpret_cast<void*>(line.range.start), line.range.bytes());
    }
    *stage = 1;
    for (;;) pause();
    return 0;
  });
  ASSERT_TRUE(wait_until([&] { return *stage == 1; }));
  RemoteTask task = RemoteTask::attach(child.pid());
  task.stop();
  EXPECT_EQ(task.run(ask_pid()).results()[0], child.pid());
  task.detach();
  EXPECT_EQ(traces_of_us(child.pid()), "");
}

TEST(SpecialPlaces, EndsInTheMiddle) {
  const Child child([] {
    for (;;) pause();
    return 0;
  });
  RemoteTask task = RemoteTask::attach(child.pid());
  task.stop();
  task.run(ask_pid());
  kill(child.pid(), SIGKILL);
  EXPECT_THROW(task.run(ask_pid()), Error);
  task.detach();
  EXPECT_THROW(RemoteTask::attach(child.pid()).stop(), Error);
}

// A child cgroup of the unified hierarchy; removed with the object.
class Group {
 public:
  explicit Group(pid_t member) {
    for (const char* root : {"/sys/fs/cgroup/unified", "/sys/fs/cgroup"}) {
      const std::string path =
          std::string(root) + "/godwit-remote-test-" + std::to_string(getpid());
      if (!std::filesystem::exists(std::string(root) + "/cgroup.procs")) continue;
      if (mkdir(path.c_str(), 0755) != 0) continue;
      path_ = path;
      write_file(path_ + "/cgroup.procs", std::to_string(member));
      return;
    }
  }
  ~Group() {
    if (path_.empty()) return;
    freeze(false);
    testing::wait_until([&] { return rmdir(path_.c_str()) == 0; }, 2000);
  }
  bool exists() const { return !path_.empty(); }
  void freeze(bool on) const { write_file(path_ + "/cgroup.freeze", on ? "1" : "0"); }

 private:
  std::string path_;
};

TEST(SpecialPlaces, FrozenProcessesAreLetGoWithoutRunning) {
  Shared<std::atomic<std::uint64_t>> count;
  auto child = std::make_unique<Child>([&] {
    for (;; usleep(500)) ++*count;
    return 0;
  });
  const pid_t pid = child->pid();
  const Group group(pid);
  ASSERT_TRUE(group.exists()) << "no unified cgroup hierarchy";
  for (const bool tidy : {true, false}) {
    RemoteTask task = RemoteTask::attach(pid);
    task.stop();
    task.run(ask_pid());
    if (tidy) task.unmap_scratch();
    group.freeze(true);
    task.detach();
    const std::uint64_t before = *count;
    usleep(5000);
    EXPECT_EQ(*count, before);
    EXPECT_EQ(traces_of_us(pid).empty(), tidy);
    group.freeze(false);
    EXPECT_TRUE(wait_until([&] { return *count > before; }));
  }
  RemoteTask next = RemoteTask::attach(pid);
  next.stop();
  next.detach();
  EXPECT_EQ(traces_of_us(pid), "");
  child.reset();
}

// Kills the agent from inside its batch. What the batch still does, it does.
void die_in_a_batch(pid_t pid, int ready_signal) {
  Child agent([&] {
    RemoteTask task = RemoteTask::attach(pid);
    task.stop();
    if (ready_signal != 0) kill(pid, ready_signal);
    SyscallBatch batch;
    batch.add(SYS_getpid, {});
    batch.add(SYS_kill, {getpid(), SIGKILL});
    for (int i = 0; i < 2000; ++i) batch.add(SYS_getppid, {});
    task.run(batch);
    return 1;
  });
  EXPECT_EQ(agent.wait(), 1000 + SIGKILL);
}

TEST(SpecialPlaces, TheAgentDiesWhileTheTaskSleeps) {
  Shared<std::int64_t> elapsed_ns;
  Child child([&] {
    const timespec time{0, 150'000'000};
    const std::int64_t start = monotonic_ns();
    const int result = nanosleep(&time, nullptr);
    *elapsed_ns = monotonic_ns() - start;
    return result == 0 ? 0 : 1;
  });
  ASSERT_TRUE(testing::wait_asleep(child.pid()));
  usleep(50'000);
  die_in_a_batch(child.pid(), 0);
  EXPECT_EQ(child.wait(), 0);
  EXPECT_GE(to_ms(*elapsed_ns), 150);
  EXPECT_LT(to_ms(*elapsed_ns), 190);  // it did not begin anew
}

TEST(SpecialPlaces, AHandlerRunsInTheTailOfADeadAgent) {
  struct Stages {
    std::atomic<int> in_handler{0}, leave{0};
    std::atomic<std::uint64_t> rounds{0};
  };
  static Stages* stages;
  Shared<Stages> shared;
  stages = &*shared;
  Child child([&] {
    struct sigaction action {};
    action.sa_handler = [](int) {
      stages->in_handler = 1;
      while (stages->leave == 0) {
      }
    };
    sigaction(SIGUSR1, &action, nullptr);
    while (stages->leave < 2) ++stages->rounds;
    return 0;
  });
  ASSERT_TRUE(wait_until([&] { return shared->rounds > 0; }));
  die_in_a_batch(child.pid(), SIGUSR1);
  ASSERT_TRUE(wait_until([&] { return shared->in_handler == 1; }));
  RemoteTask task = RemoteTask::attach(child.pid());
  task.stop();
  EXPECT_EQ(task.run(ask_pid()).results()[0], child.pid());
  task.detach();
  if (!arch::tail_needs_vector_state()) {      // else the kernel leaves the tail before there is a
                                               // signal
    EXPECT_NE(traces_of_us(child.pid()), "");  // what the handler returns to
  }
  shared->leave = 1;
  const std::uint64_t before = shared->rounds;
  EXPECT_TRUE(wait_until([&] { return shared->rounds > before; }));
  RemoteTask last = RemoteTask::attach(child.pid());
  last.stop();
  last.detach();
  EXPECT_EQ(traces_of_us(child.pid()), "");
  shared->leave = 2;
  EXPECT_EQ(child.wait(), 0);
}

}  // namespace
}  // namespace godwit
