// proc_status, proc_stat and proc_limits: parsing of known texts, and of this very process.
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <chrono>
#include <thread>

#include "common/base/error.h"
#include "common/kernel/proc_limits.h"
#include "common/kernel/proc_schedstat.h"
#include "common/kernel/proc_stat.h"
#include "common/kernel/proc_status.h"

namespace godwit {
namespace {

TEST(ProcStatus, ReadsIdsSetsAndLists) {
  const ProcStatus status = parse_proc_status(
      "Name:\ta b\nUmask:\t0027\nState:\tS (sleeping)\nTgid:\t12\nPid:\t13\nPPid:\t1\n"
      "TracerPid:\t0\nUid:\t1\t2\t3\t4\nGid:\t5\t6\t7\t8\nGroups:\t10 20 \nNSpid:\t13\t2\n"
      "NSpgid:\t12\t1\nNSsid:\t12\t0\nSigPnd:\t0000000000000200\nSeccomp:\t2\n"
      "CapPrm:\t000001fffeffffff\nNoNewPrivs:\t1\nnonvoluntary_ctxt_switches:\t9\n");
  EXPECT_EQ(status.name, "a b");
  EXPECT_EQ(status.umask, 027u);
  EXPECT_EQ(status.state, 'S');
  EXPECT_EQ(status.pid, 13);
  EXPECT_EQ(status.inner_pid(), 2);
  EXPECT_EQ(status.namespace_sessions, (std::vector<pid_t>{12, 0}));
  EXPECT_EQ(status.uids[3], 4u);
  EXPECT_EQ(status.gids[0], 5u);
  EXPECT_EQ(status.groups, (std::vector<std::uint32_t>{10, 20}));
  EXPECT_EQ(status.pending_private, 0x200u);
  EXPECT_EQ(status.capabilities_permitted, 0x1fffeffffffu);
  EXPECT_TRUE(status.no_new_privileges);
  EXPECT_EQ(status.seccomp_mode, 2u);
  EXPECT_EQ(status.involuntary_switches, 9u);
}

TEST(ProcStatus, RefusesNonsense) {
  EXPECT_THROW(parse_proc_status("Tgid:\tx\nPid:\t1\n"), Error);
  EXPECT_THROW(parse_proc_status("Name:\ta\n"), Error);
  EXPECT_FALSE(try_read_proc_status("/proc/self/task/1999999999"));
}

TEST(ProcStatus, ReadsThisProcessAndItsThreads) {
  const ProcStatus status = read_proc_status(getpid());
  EXPECT_EQ(status.tgid, getpid());
  EXPECT_EQ(status.uids[1], geteuid());
  EXPECT_EQ(status.inner_pid(), getpid());
  std::vector<pid_t> seen;
  std::jthread([&] { seen = list_threads(getpid()); }).join();
  ASSERT_GE(seen.size(), 2u);
  EXPECT_EQ(seen.front(), getpid());
}

TEST(ProcStatus, ATaskWithoutItsIdsHasEnded) {
  for (const char* text : {"Tgid:\t4\nPid:\t5\nNSpid:\t0\n", "Tgid:\t4\nPid:\t5\nNSpid:\t5\t0\n",
                           "Tgid:\t0\nPid:\t5\nNSpid:\t5\n"}) {
    try {
      parse_proc_status(text);
      ADD_FAILURE() << text;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ESRCH) << text;
    }
  }
}

TEST(ProcStatus, ThreadsThatEndWhileTheyAreReadAreGoneOrWhole) {
  std::jthread ending([](const std::stop_token& stop) {
    while (!stop.stop_requested()) std::jthread([] {}).join();
  });
  const auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(300);
  int gone = 0;
  while (std::chrono::steady_clock::now() < end) {
    for (const pid_t tid : list_threads(getpid())) {
      const auto status = try_read_proc_status(fmt::format("/proc/self/task/{}", tid));
      EXPECT_EQ(status ? status->inner_pid() : tid, tid);
      gone += status ? 0 : 1;
    }
  }
  EXPECT_GT(gone, 0);
}

TEST(ProcStat, NameMayHoldBrackets) {
  const ProcStat stat = parse_proc_stat(
      "7 (a) S (b) R 1 2 3 4 5 2097152 0 0 0 0 0 0 0 0 20 0 1 0 991 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 "
      "17 6 0 0\n");
  EXPECT_EQ(stat.comm, "a) S (b");
  EXPECT_EQ(stat.state, 'R');
  EXPECT_EQ(stat.group, 2);
  EXPECT_EQ(stat.session, 3);
  EXPECT_EQ(stat.start_time_ticks, 991u);
  EXPECT_EQ(stat.processor, 6);
  EXPECT_TRUE(stat.kernel_thread());
  EXPECT_THROW(parse_proc_stat("7 (a) S 1 2"), Error);
}

TEST(ProcStat, ReadsThisProcess) {
  const ProcStat stat = read_proc_stat(getpid());
  EXPECT_EQ(stat.parent, getppid());
  EXPECT_EQ(stat.session, getsid(0));
  EXPECT_FALSE(stat.kernel_thread());
}

TEST(ProcLimits, AgreesWithGetrlimit) {
  const auto limits = read_proc_limits(getpid());
  EXPECT_EQ(limits.size(), static_cast<std::size_t>(RLIM_NLIMITS));
  for (const ProcLimit& limit : limits) {
    rlimit own{};
    ASSERT_EQ(getrlimit(static_cast<__rlimit_resource>(limit.resource), &own), 0);
    EXPECT_EQ(limit.soft, own.rlim_cur) << limit_name(limit.resource);
    EXPECT_EQ(limit.hard, own.rlim_max) << limit_name(limit.resource);
  }
}

TEST(ProcLimits, RefusesNonsense) {
  EXPECT_THROW(parse_proc_limits("Limit\nMax open files            many  1  files\n"), Error);
  EXPECT_THROW(parse_proc_limits("Limit\nsomething\n"), Error);
}

TEST(ProcSchedstat, ParsesWhatTheKernelWrites) {
  const auto count = parse_schedstat("799496 38757 3\n");
  ASSERT_TRUE(count);
  EXPECT_EQ(count->ran_ns, 799496);
  EXPECT_EQ(count->slices, 3u);
  EXPECT_FALSE(parse_schedstat("0 0 0\n"));
  EXPECT_THROW(parse_schedstat("1 2\n"), Error);
}

TEST(ProcSchedstat, CountsEverySlice) {
  const RunCounter counter(getpid(), gettid());
  const auto before = counter.read();
  ASSERT_TRUE(before);
  const auto sleeps_before = counter.sleeps();
  for (int i = 0; i < 5; ++i) usleep(100);
  const auto after = counter.read();
  ASSERT_TRUE(sleeps_before);
  EXPECT_GE(counter.sleeps(), *sleeps_before + 5);
  ASSERT_TRUE(after);
  EXPECT_GE(after->slices, before->slices + 5);
  EXPECT_GT(after->ran_ns, before->ran_ns);
  EXPECT_FALSE(RunCounter(getpid(), 0).read());
  EXPECT_FALSE(RunCounter(getpid(), 0).sleeps());
}

}  // namespace
}  // namespace godwit
