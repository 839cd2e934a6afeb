#include "common/kernel/cgroup_fs.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <atomic>
#include <chrono>
#include <thread>

#include "common/base/clock.h"
#include "common/base/error.h"

namespace godwit {
namespace {

using std::chrono_literals::operator""ms;
using std::chrono_literals::operator""s;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

// Unlike any other run's: pid and time.
std::string fresh_id() {
  return fmt::format("{:016x}", (static_cast<std::uint64_t>(::getpid()) << 40) ^
                                    static_cast<std::uint64_t>(monotonic_ns()));
}

bool exists(const std::string& path) {
  struct stat info {};
  return ::stat(path.c_str(), &info) == 0;
}

// A child with two threads that count in shared memory for as long as they run.
class Counting {
 public:
  Counting() {
    void* memory = ::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    count_ = static_cast<std::atomic<std::uint64_t>*>(memory);
    pid_ = ::fork();
    if (pid_ == 0) {
      std::thread second([this] { count(1); });
      count(0);
    }
    wait_running();
  }
  ~Counting() {
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
    ::munmap(count_, 4096);
  }
  pid_t pid() const { return pid_; }
  // Did either thread count on within 30 ms?
  bool runs() const {
    const std::uint64_t before = sum();
    std::this_thread::sleep_for(30ms);
    return sum() != before;
  }
  bool ended() const {
    siginfo_t info{};
    return ::waitid(P_PID, static_cast<id_t>(pid_), &info, WEXITED | WNOHANG | WNOWAIT) == 0 &&
           info.si_pid == pid_;
  }
  std::uint64_t sum() const { return count_[0] + count_[1]; }
  void wait_running() const {
    while (count_[0] == 0 || count_[1] == 0) std::this_thread::sleep_for(1ms);
  }

 private:
  [[noreturn]] void count(int slot) {
    for (;;) {
      ++count_[slot];
      std::this_thread::sleep_for(1ms);
    }
  }

  std::atomic<std::uint64_t>* count_;
  pid_t pid_;
};

TEST(ParseCgroupMount, FindsTheUnifiedHierarchyAmongOthers) {
  const auto mount = parse_cgroup_mount(
      "22 27 0:21 / /proc rw,relatime - proc proc rw\n"
      "30 31 0:30 / /sys/fs/cgroup/memory rw shared:9 master:1 - cgroup cgroup rw,memory\n"
      "41 31 0:38 /box /sys/fs/my\\040cgroup rw,relatime shared:4 - cgroup2 cgroup2 rw\n");
  ASSERT_TRUE(mount);
  EXPECT_EQ(mount->path, "/sys/fs/my cgroup");
  EXPECT_EQ(mount->root, "/box");
}

TEST(ParseCgroupMount, SaysThatThereIsNone) {
  EXPECT_FALSE(parse_cgroup_mount(""));
  EXPECT_FALSE(parse_cgroup_mount("22 27 0:21 / /proc rw - proc proc rw\ngarbage\n"));
}

TEST(FreezerGroup, FreezesAndThawsAProcessWithItsThreads) {
  const Counting child;
  const std::string before = find_group_of(child.pid());
  std::string path;
  {
    FreezerGroup group = FreezerGroup::around(child.pid(), fresh_id());
    path = group.path();
    EXPECT_EQ(find_group_of(child.pid()), path);
    EXPECT_TRUE(path.starts_with(before));
    EXPECT_THAT(group.processes(), ElementsAre(child.pid()));
    EXPECT_FALSE(group.frozen());
    EXPECT_TRUE(child.runs());
    group.freeze();
    EXPECT_TRUE(group.freeze_asked());
    ASSERT_TRUE(group.wait_frozen(5s));
    EXPECT_FALSE(child.runs());
    group.thaw();
    EXPECT_FALSE(group.freeze_asked());
    EXPECT_TRUE(child.runs());
  }
  EXPECT_FALSE(exists(path));
  EXPECT_EQ(find_group_of(child.pid()), before);
  EXPECT_TRUE(child.runs());
}

TEST(FreezerGroup, LetsAFrozenProcessGoWhenItEnds) {
  const Counting child;
  std::string path;
  {
    FreezerGroup group = FreezerGroup::around(child.pid(), fresh_id());
    path = group.path();
    group.freeze();
    ASSERT_TRUE(group.wait_frozen(5s));
  }
  EXPECT_TRUE(child.runs());
  EXPECT_FALSE(exists(path));
}

TEST(FreezerGroup, StaysFrozenWhenKept) {
  const Counting child;
  const std::string id = fresh_id();
  {
    FreezerGroup group = FreezerGroup::around(child.pid(), id);
    group.freeze();
    ASSERT_TRUE(group.wait_frozen(5s));
    group.keep();
  }
  EXPECT_FALSE(child.runs());
  const std::vector<std::string> leftovers = find_leftover_groups(id);
  ASSERT_EQ(leftovers.size(), 1U);
  FreezerGroup group = FreezerGroup::adopt(leftovers.front());
  EXPECT_TRUE(group.frozen());
  EXPECT_THAT(group.processes(), ElementsAre(child.pid()));
  group.give_back();
  EXPECT_TRUE(child.runs());
  EXPECT_THAT(find_leftover_groups(id), ElementsAre());
  group.give_back();
}

TEST(FreezerGroup, TakesProcessesInWhileFrozen) {
  const Counting child;
  FreezerGroup group = FreezerGroup::create(fresh_id());
  EXPECT_THAT(find_leftover_groups(), Contains(group.path()));
  group.freeze();
  group.add(child.pid());
  ASSERT_TRUE(group.wait_frozen(5s));
  EXPECT_FALSE(child.runs());
  group.thaw();
  EXPECT_TRUE(child.runs());
  group.give_back();
  EXPECT_FALSE(exists(group.path()));
  EXPECT_TRUE(child.runs());
}

TEST(FreezerGroup, IsRemovedWhenItsProcessHasEnded) {
  std::string path;
  {
    const Counting child;
    FreezerGroup group = FreezerGroup::around(child.pid(), fresh_id());
    path = group.path();
    ::kill(child.pid(), SIGKILL);
  }
  EXPECT_FALSE(exists(path));
}

TEST(FreezerGroup, ADiscardedCopyNeverRunsAgain) {
  const Counting child;
  FreezerGroup group = FreezerGroup::create(fresh_id());
  group.add(child.pid());
  group.freeze();
  ASSERT_TRUE(group.wait_frozen(5s));
  const std::uint64_t before = child.sum();
  group.discard();
  EXPECT_FALSE(exists(group.path()));
  EXPECT_TRUE(child.ended());
  EXPECT_EQ(child.sum(), before);
  group.discard();
}

TEST(FreezerGroup, ADestinationsGroupThatUnwindsEndsAFrozenCopyAndSparesAReleasedOne) {
  const Counting unreleased;
  const Counting released;
  std::string path;
  std::uint64_t before = 0;
  {
    FreezerGroup group = FreezerGroup::create(fresh_id());
    path = group.path();
    group.freeze();
    group.add(unreleased.pid());
    ASSERT_TRUE(group.wait_frozen(5s));
    before = unreleased.sum();
    FreezerGroup other = FreezerGroup::create(fresh_id());
    other.freeze();
    other.add(released.pid());
    ASSERT_TRUE(other.wait_frozen(5s));
    other.thaw();
  }
  EXPECT_FALSE(exists(path));
  EXPECT_TRUE(unreleased.ended());
  EXPECT_EQ(unreleased.sum(), before);
  EXPECT_FALSE(released.ended());
  EXPECT_TRUE(released.runs());
}

TEST(FreezerGroup, SaysWhenATimeoutPasses) {
  // An empty group is never said to be frozen before it is asked to be.
  FreezerGroup group = FreezerGroup::create(fresh_id());
  EXPECT_FALSE(group.wait_frozen(5ms));
}

TEST(FreezerGroup, LeavesNothingWhenTheProcessIsGone) {
  const std::string id = fresh_id();
  const pid_t child = ::fork();
  if (child == 0) ::_exit(0);
  ::waitpid(child, nullptr, 0);
  EXPECT_THROW(FreezerGroup::around(child, id), Error);
  EXPECT_THAT(find_leftover_groups(id), ElementsAre());
  FreezerGroup group = FreezerGroup::create(id);
  try {
    group.add(child);
    FAIL() << "a process that is gone was added";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ESRCH);
    EXPECT_THAT(error.what(), HasSubstr(std::to_string(child)));
  }
}

}  // namespace
}  // namespace godwit
