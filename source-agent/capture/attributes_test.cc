// The kinds that describe a task itself, captured from a child in a known state: the description
// must say what the child did to itself. (Whether it can be restored is dest-agent/restore's test.)
#include <fcntl.h>
#include <grp.h>
#include <gtest/gtest.h>
#include <linux/futex.h>
#include <linux/membarrier.h>
#include <poll.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>

#include <thread>

#include "common/remote/test_child.h"
#include "source-agent/capture/credentials.h"
#include "source-agent/capture/filesystem_context.h"
#include "source-agent/capture/process_attributes.h"
#include "source-agent/capture/rlimits.h"
#include "source-agent/capture/signals.h"
#include "source-agent/capture/task_identity.h"
#include "source-agent/capture/threads.h"
#include "source-agent/capture/timers.h"

namespace godwit {
namespace {

using testing::Child;
using testing::wait_asleep;

void handler(int) {}

bool has(const Findings& findings, const std::string& id) {
  for (const proto::Finding& finding : findings) {
    if (finding.id() == id) return true;
  }
  return false;
}

TEST(CaptureSignals, ActionsAndPendingOnes) {
  Child child([] {
    struct sigaction action {};
    action.sa_handler = handler;
    action.sa_flags = SA_RESTART | SA_ONSTACK;
    sigaddset(&action.sa_mask, SIGHUP);
    sigaction(SIGUSR1, &action, nullptr);
    signal(SIGPIPE, SIG_IGN);
    sigset_t all;
    sigfillset(&all);
    sigprocmask(SIG_BLOCK, &all, nullptr);
    sigqueue(getpid(), SIGRTMIN + 1, {.sival_int = 7});
    sigqueue(getpid(), SIGRTMIN + 1, {.sival_int = 8});
    raise(SIGTERM);  // tgkill: private
    for (;;) pause();
    return 0;
  });
  ASSERT_TRUE(wait_asleep(child.pid()));
  RemoteTask task = RemoteTask::attach(child.pid());
  task.stop();
  CaptureContext context{task, child.pid()};
  const proto::Signals signals = capture_signals(context);
  ASSERT_EQ(signals.actions_size(), 2) << signals.DebugString();
  EXPECT_EQ(signals.actions(0).signal(), SIGUSR1);
  EXPECT_EQ(signals.actions(0).handler(), reinterpret_cast<std::uint64_t>(&handler));
  EXPECT_EQ(signals.actions(0).mask(), 1u << (SIGHUP - 1));
  EXPECT_EQ(signals.actions(1).signal(), SIGPIPE);
  EXPECT_EQ(signals.actions(1).handler(), 1u);
  ASSERT_EQ(signals.pending_size(), 2);
  siginfo_t info{};
  memcpy(&info, signals.pending(1).siginfo().data(), sizeof(info));
  EXPECT_EQ(info.si_signo, SIGRTMIN + 1);
  EXPECT_EQ(info.si_value.sival_int, 8);
  const auto threads = capture_threads(context);
  ASSERT_EQ(threads.size(), 1u);
  ASSERT_EQ(threads[0].pending_size(), 1);
  memcpy(&info, threads[0].pending(0).siginfo().data(), sizeof(info));
  EXPECT_EQ(info.si_signo, SIGTERM);
  EXPECT_EQ(info.si_code, SI_TKILL);
  EXPECT_EQ(threads[0].tid(), child.pid());
}

TEST(CaptureSignals, WhatOverflowedTheQueueComesFromNobody) {
  siginfo_t queued{};
  queued.si_signo = 34;
  const auto messages = describe_pending({queued}, 1ULL << 33 | 1ULL << 9 | 1ULL << (SIGKILL - 1));
  ASSERT_EQ(messages.size(), 2u);
  siginfo_t info{};
  memcpy(&info, messages[1].siginfo().data(), sizeof(info));
  EXPECT_EQ(info.si_signo, 10);
  EXPECT_EQ(info.si_code, SI_USER);
}

TEST(CaptureTimers, ReadsTheKernelsList) {
  const auto timers = parse_proc_timers(
      "ID: 4\nsignal: 36/00007fff86e452a8\nnotify: signal/tid.2634\nClockID: 1\n"
      "ID: 1\nsignal: 0/(null)\nnotify: none/pid.2634\nClockID: -6\n");
  ASSERT_EQ(timers.size(), 2u);
  EXPECT_EQ(timers[0].id(), 1);
  EXPECT_EQ(timers[0].notify(), SIGEV_NONE);
  EXPECT_EQ(timers[0].clock(), -6);
  EXPECT_EQ(timers[1].notify(), SIGEV_THREAD_ID);
  EXPECT_EQ(timers[1].target_tid(), 2634);
  EXPECT_EQ(timers[1].value(), 0x7fff86e452a8u);
  EXPECT_THROW(parse_proc_timers("ID: 1\nnotify: signal\n"), Error);
  EXPECT_THROW(parse_proc_timers("ClockID: 1\n"), Error);
}

TEST(CaptureTimers, RemainingTimes) {
  Child child([] {
    const itimerval time{{3, 0}, {1000, 0}};
    setitimer(ITIMER_REAL, &time, nullptr);
    struct sigevent event {};
    event.sigev_notify = SIGEV_SIGNAL;
    event.sigev_signo = SIGUSR1;
    event.sigev_value.sival_int = 99;
    int id = 0;
    syscall(SYS_timer_create, CLOCK_MONOTONIC, &event, &id);
    const itimerspec spec{{0, 5}, {2000, 0}};
    syscall(SYS_timer_settime, id, 0, &spec, nullptr);
    for (;;) pause();
    return 0;
  });
  ASSERT_TRUE(wait_asleep(child.pid()));
  RemoteTask task = RemoteTask::attach(child.pid());
  task.stop();
  CaptureContext context{task, child.pid()};
  const proto::Timers timers = capture_timers(context);
  ASSERT_EQ(timers.interval_timers_size(), 1);
  EXPECT_EQ(timers.interval_timers(0).interval_ns(), 3'000'000'000);
  EXPECT_NEAR(static_cast<double>(timers.interval_timers(0).remaining_ns()), 1000e9, 60e9);
  ASSERT_EQ(timers.posix_timers_size(), 1);
  EXPECT_EQ(timers.posix_timers(0).value() & 0xffffffff, 99u);
  EXPECT_EQ(timers.posix_timers(0).interval_ns(), 5);
  EXPECT_NEAR(static_cast<double>(timers.posix_timers(0).remaining_ns()), 2000e9, 60e9);
}

TEST(CaptureThreads, EachWithItsOwn) {
  Child child([] {
    std::thread other([] {
      prctl(PR_SET_NAME, "second");
      setpriority(PRIO_PROCESS, static_cast<id_t>(syscall(SYS_gettid)), 7);
      prctl(PR_SET_TIMERSLACK, 123456);
      prctl(PR_SET_PDEATHSIG, SIGWINCH);
      cpu_set_t cpus;
      CPU_ZERO(&cpus);
      CPU_SET(0, &cpus);
      sched_setaffinity(0, sizeof(cpus), &cpus);
      for (;;) pause();
    });
    usleep(100'000);
    for (;;) pause();
    return 0;
  });
  usleep(300'000);
  RemoteTask task = RemoteTask::attach(child.pid());
  task.stop();
  CaptureContext context{task, child.pid()};
  const auto threads = capture_threads(context);
  ASSERT_EQ(threads.size(), 2u);
  EXPECT_EQ(threads[0].host_tid(), child.pid());
  const proto::Thread& other = threads[1];
  EXPECT_EQ(other.comm(), "second");
  EXPECT_EQ(other.scheduling().nice(), 7);
  EXPECT_EQ(other.timer_slack_ns(), 123456u);
  EXPECT_EQ(other.parent_death_signal(), SIGWINCH);
  const bool has_choice = std::thread::hardware_concurrency() > 1;
  ASSERT_EQ(other.scheduling().cpus_size(), has_choice ? 1 : 0);
  EXPECT_EQ(threads[0].scheduling().cpus_size(), 0);
  EXPECT_NE(other.robust_list(), 0u);
  EXPECT_EQ(other.robust_list_bytes(), 24u);
  EXPECT_NE(other.clear_child_tid(), 0u);
  EXPECT_NE(other.rseq().address(), 0u);
  EXPECT_FALSE(other.vector_registers().empty());
  EXPECT_FALSE(other.has_blocked_call());
  EXPECT_EQ(other.scheduling().runtime_ns(), 0u);
}

TEST(CaptureThreads, DifferentCredentialsAreRefused) {
  Child child([] {
    std::thread other([] {
      syscall(SYS_setresuid, 4000, 4000, 4000);
      for (;;) pause();
    });
    for (;;) pause();
    return 0;
  });
  usleep(200'000);
  Findings findings;
  preflight_credentials(child.pid(), findings);
  EXPECT_TRUE(has(findings, "thread-credentials"));
  RemoteTask task = RemoteTask::attach(child.pid());
  task.stop();
  CaptureContext context{task, child.pid()};
  EXPECT_THROW(capture_threads(context), Refused);
}

// One that ends has no descriptors and no directory any more: that is no refusal.
TEST(CaptureThreads, ThoseThatEndAreNotTakenForUnshared) {
  const Child child([] {
    for (;;) {
      std::vector<std::thread> threads;
      for (int i = 0; i < 8; ++i) threads.emplace_back([] {});
      for (std::thread& thread : threads) thread.join();
    }
    return 0;
  });
  const std::int64_t until = monotonic_ns() + 500'000'000;
  while (monotonic_ns() < until) {
    Findings findings;
    preflight_threads(child.pid(), findings);
    preflight_filesystem_context(child.pid(), findings);
    ASSERT_TRUE(findings.empty()) << findings[0].id();
  }
}

TEST(CaptureCredentials, IdsAndSecureBits) {
  Child child([] {
    const gid_t groups[] = {11, 12};
    setgroups(2, groups);
    setresgid(21, 22, 23);
    prctl(PR_SET_SECUREBITS, 4);  // SECBIT_NO_SETUID_FIXUP
    setresuid(31, 32, 33);
    for (;;) pause();
    return 0;
  });
  ASSERT_TRUE(wait_asleep(child.pid()));
  RemoteTask task = RemoteTask::attach(child.pid());
  task.stop();
  CaptureContext context{task, child.pid()};
  const proto::Credentials credentials = capture_credentials(context);
  EXPECT_EQ(credentials.uid_saved(), 33u);
  EXPECT_EQ(credentials.uid_filesystem(), 32u);
  EXPECT_EQ(credentials.gid_effective(), 22u);
  EXPECT_EQ(credentials.groups_size(), 2);
  EXPECT_EQ(credentials.secure_bits(), 4u);
  EXPECT_NE(credentials.capabilities_permitted(), 0u);
}

TEST(CaptureAttributes, StateThatWasAskedForIsRefused) {
  constexpr std::uint64_t kTileData = 1 << 18;
  EXPECT_NO_THROW(refuse_asked_state(7, 0xe7, kTileData));
  EXPECT_NO_THROW(refuse_asked_state(7, kTileData, 0));
  try {
    refuse_asked_state(7, 0xe7 | kTileData, kTileData);
    FAIL() << "it was not refused";
  } catch (const Refused& refused) {
    const std::string story = refused.what();
    EXPECT_NE(story.find("process 7"), story.npos) << story;
    EXPECT_NE(story.find(arch::vector_component_name(18)), story.npos) << story;
    EXPECT_FALSE(refused.hint().empty());
  }
}

TEST(CaptureAttributes, LimitsDirectoryAndTheRest) {
  Child child([] {
    const rlimit files{100, 200};
    setrlimit(RLIMIT_NOFILE, &files);
    umask(0123);
    if (chdir("/usr") != 0) return 1;
    prctl(PR_SET_DUMPABLE, 0);
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0, 0);
    for (;;) pause();
    return 0;
  });
  ASSERT_TRUE(wait_asleep(child.pid()));
  RemoteTask task = RemoteTask::attach(child.pid());
  task.stop();
  CaptureContext context{task, child.pid()};
  bool seen = false;
  const proto::Rlimits rlimits = capture_rlimits(context);
  for (const auto& limit : rlimits.limits()) {
    if (limit.resource() != RLIMIT_NOFILE) continue;
    seen = true;
    EXPECT_EQ(limit.soft(), 100u);
    EXPECT_EQ(limit.hard(), 200u);
  }
  EXPECT_TRUE(seen);
  const auto filesystem = capture_filesystem_context(context);
  EXPECT_EQ(filesystem.working_directory(), "/usr");
  EXPECT_EQ(filesystem.root(), "/");
  EXPECT_EQ(filesystem.umask(), 0123u);
  const auto attributes = capture_process_attributes(context);
  EXPECT_EQ(attributes.dumpable(), 0u);
  EXPECT_TRUE(attributes.child_subreaper());
  EXPECT_EQ(attributes.memory_barriers(),
            static_cast<unsigned>(MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED));
  const auto identity = capture_task_identity(context);
  EXPECT_EQ(identity.pid(), child.pid());
  EXPECT_EQ(identity.group(), getpgid(child.pid()));
  EXPECT_NE(identity.start_time_ticks(), 0u);
}

TEST(Preflight, NamesWhatIsNoOrdinaryProcess) {
  const auto id_of = [](pid_t pid) {
    Findings findings;
    preflight_task_identity(pid, findings);
    return findings.empty() ? std::string() : findings[0].id();
  };
  EXPECT_EQ(id_of(1999999999), "no-such-pid");
  EXPECT_EQ(id_of(1), "pid-is-init");
  EXPECT_EQ(id_of(getpid()), "");
  const pid_t ended = fork();
  if (ended == 0) _exit(0);
  siginfo_t info;
  waitid(P_PID, static_cast<id_t>(ended), &info, WEXITED | WNOWAIT);
  EXPECT_EQ(id_of(ended), "pid-is-zombie");
  waitpid(ended, nullptr, 0);
  Child stopped([] {
    raise(SIGSTOP);
    return 0;
  });
  waitid(P_PID, static_cast<id_t>(stopped.pid()), &info, WSTOPPED);
  EXPECT_EQ(id_of(stopped.pid()), "pid-is-stopped");
}

TEST(Preflight, RefusesSeccompAndARemovedDirectory) {
  Child child([] {
    const std::string directory = "/tmp/godwit-gone-" + std::to_string(getpid());
    if (mkdir(directory.c_str(), 0700) != 0 || chdir(directory.c_str()) != 0) return 1;
    rmdir(directory.c_str());
    prctl(PR_SET_SECCOMP, 1);
    syscall(SYS_read, -1, nullptr, 0);
    for (;;) {
    }
    return 0;
  });
  usleep(100'000);
  Findings findings;
  preflight_process_attributes(child.pid(), findings);
  preflight_filesystem_context(child.pid(), findings);
  EXPECT_TRUE(has(findings, "seccomp-strict"));
  EXPECT_TRUE(has(findings, "directory-deleted"));
  EXPECT_THROW(describe_filesystem_context(child.pid()), Refused);
}

// --- How long a blocked call has left
// -------------------------------------------------------------

struct SleepCase {
  const char* name;
  void (*call)();
  bool needs_watch;
};
constexpr timespec kTen{10, 0};
const SleepCase kSleeps[] = {
    {"nanosleep with rest",
     [] {
       timespec rest{};
       syscall(SYS_nanosleep, &kTen, &rest);
     },
     false},
    {"nanosleep", [] { syscall(SYS_nanosleep, &kTen, nullptr); }, true},
    {"clock_nanosleep", [] { syscall(SYS_clock_nanosleep, CLOCK_BOOTTIME, 0, &kTen, nullptr); },
     true},
#ifdef SYS_poll
    {"poll", [] { syscall(SYS_poll, nullptr, 0, 10'000); }, true},
#endif
    {"futex",
     [] {
       static int word = 5;
       syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, 5, &kTen, nullptr, 0);
     },
     true},
};

TEST(BlockedCalls, RemainingTimeAlsoAfterEarlierStops) {
  for (const SleepCase& sleep : kSleeps) {
    SCOPED_TRACE(sleep.name);
    Child child([&] {
      sleep.call();
      return 0;
    });
    usleep(500'000);
    BlockedCallWatch watch;
    watch.observe(child.pid());  // it has slept for half a second already
    RemoteTask task = RemoteTask::attach(child.pid());
    task.stop();
    watch.note_stop(task);
    task.resume();  // from here on it is in restart_syscall
    usleep(300'000);
    task.stop();
    watch.note_stop(task);
    CaptureContext context{task, child.pid()};
    const auto threads = capture_threads(context, watch);
    ASSERT_TRUE(threads[0].has_blocked_call());
    EXPECT_NE(threads[0].blocked_call().number(), SYS_restart_syscall);
    EXPECT_NEAR(static_cast<double>(threads[0].blocked_call().remaining_ns()), 9.2e9, 0.3e9);
    // Without having watched, only what the kernel wrote down is known.
    const auto blind = capture_threads(context);
    if (sleep.needs_watch) {
      EXPECT_EQ(blind[0].blocked_call().remaining_ns(), -1);
    }
  }
}

TEST(BlockedCalls, FindsTheCallBehindRestartFromTheKernelsStack) {
  for (const SleepCase& sleep : kSleeps) {
    SCOPED_TRACE(sleep.name);
    Child child([&] {
      sleep.call();
      return 0;
    });
    ASSERT_TRUE(wait_asleep(child.pid()));
    RemoteTask task = RemoteTask::attach(child.pid());
    task.stop();
    std::optional<arch::InterruptedCall> call;
    task.leader().portable_registers(&call);
    ASSERT_TRUE(call);
    task.resume();
    ASSERT_TRUE(wait_asleep(child.pid()));
    usleep(20'000);
    BlockedCallWatch watch;
    watch.observe(child.pid());
    task.stop();
    watch.note_stop(task);
    CaptureContext context{task, child.pid()};
    EXPECT_EQ(capture_threads(context, watch)[0].blocked_call().number(), call->number);
    // Nobody looked before the stop.
    BlockedCallWatch late;
    late.note_stop(task);
    EXPECT_EQ(capture_threads(context, late)[0].blocked_call().number(), call->number);
    EXPECT_EQ(read_proc_stat(child.pid()).state, 't');
  }
}

TEST(BlockedCalls, ReadsTheKernelsLine) {
  const auto call = parse_blocked_in("7 0x56 0x0 0x1388 0x0 0x0 0x0 0x7ffc 0x7ff0\n");
  ASSERT_TRUE(call);
  EXPECT_EQ(call->number, 7);
  EXPECT_EQ(call->arguments[2], 0x1388u);
  EXPECT_EQ(call->stack_pointer, 0x7ffcu);
  EXPECT_FALSE(parse_blocked_in("running\n"));
  EXPECT_FALSE(parse_blocked_in("-1 0x0 0x0\n"));
  EXPECT_THROW(parse_blocked_in("7 x\n"), Error);
}

}  // namespace
}  // namespace godwit
