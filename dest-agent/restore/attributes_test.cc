// The law that the kinds of a task stand under: a child in an unusual state is captured, the state
// is restored into another child, that one is captured, and both descriptions are the same.
#include <fcntl.h>
#include <grp.h>
#include <gtest/gtest.h>
#include <linux/capability.h>
#include <linux/membarrier.h>
#include <sched.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>

#include <atomic>
#include <cstring>
#include <thread>

#include "common/kernel/processors.h"
#include "common/remote/test_child.h"
#include "dest-agent/restore/credentials.h"
#include "dest-agent/restore/filesystem_context.h"
#include "dest-agent/restore/process_attributes.h"
#include "dest-agent/restore/rlimits.h"
#include "dest-agent/restore/signals.h"
#include "dest-agent/restore/threads.h"
#include "dest-agent/restore/timers.h"
#include "proto/snapshot.pb.h"
#include "source-agent/capture/credentials.h"
#include "source-agent/capture/filesystem_context.h"
#include "source-agent/capture/process_attributes.h"
#include "source-agent/capture/rlimits.h"
#include "source-agent/capture/signals.h"
#include "source-agent/capture/threads.h"
#include "source-agent/capture/timers.h"

namespace godwit {
namespace {

using testing::Child;
using testing::Shared;
using testing::wait_asleep;
using testing::wait_until;

// A process with two threads; `first` and `second` set up, then both sleep.
class Subject {
 public:
  Subject(void (*first)(), void (*second)()) : child_([=, this] { return live(first, second); }) {
    if (!wait_until([&] { return *set_up_ == 2; })) fail("the subject does not come up");
    for (const pid_t tid : list_threads(child_.pid())) wait_asleep(tid);
    task_.emplace(RemoteTask::attach(child_.pid()));
    task_->stop();
  }
  // Its registers may be somebody else's: it must not run again.
  ~Subject() {
    std::vector<pid_t> tids;
    for (const Tracee& tracee : task_->threads()) tids.push_back(tracee.tid());
    kill(child_.pid(), SIGKILL);
    // A traced thread that ended stays until its tracer has waited for it.
    for (const pid_t tid : tids) {
      if (tid != child_.pid()) wait_for_end(tid);
    }
    wait_for_end(child_.pid());
    task_.reset();
  }

  RemoteTask& task() { return *task_; }
  pid_t pid() const { return child_.pid(); }
  CaptureContext context() { return {*task_, child_.pid()}; }

 private:
  static void wait_for_end(pid_t tid) {
    int status = 0;
    do {
      if (waitpid(tid, &status, __WALL) != tid) return;
    } while (WIFSTOPPED(status));  // the stop that it was killed in
  }
  int live(void (*first)(), void (*second)()) {
    std::thread other([=, this] {
      sigset_t all;  // or it would be given what the first one keeps pending
      sigfillset(&all);
      pthread_sigmask(SIG_BLOCK, &all, nullptr);
      second();
      *set_up_ = 1;
      for (;;) pause();
    });
    while (*set_up_ == 0) usleep(100);  // the second first: what it does may need privileges
    first();
    *set_up_ = 2;
    for (;;) pause();
  }
  Shared<std::atomic<int>> set_up_;
  Child child_;
  std::optional<RemoteTask> task_;
};
constexpr int kTimerCreateRestoreIds = 77;  // PR_TIMER_CREATE_RESTORE_IDS
void handler(int) {}

void set_signals() {
  struct sigaction action {};
  action.sa_handler = handler;
  action.sa_flags = SA_RESTART | SA_ONSTACK | SA_NODEFER;
  sigaddset(&action.sa_mask, SIGHUP);
  sigaction(SIGUSR1, &action, nullptr);
  signal(SIGPIPE, SIG_IGN);
  struct sigaction child {};
  child.sa_handler = SIG_DFL;
  child.sa_flags = SA_NOCLDWAIT;
  sigaction(SIGCHLD, &child, nullptr);
  sigset_t blocked;
  sigfillset(&blocked);
  sigprocmask(SIG_BLOCK, &blocked, nullptr);
  for (int i = 0; i < 3; ++i) sigqueue(getpid(), SIGRTMIN + i, {.sival_int = 100 + i});
  kill(getpid(), SIGTERM);
  kill(getpid(), SIGPIPE);  // ignored, and pending all the same, because blocked
  raise(SIGUSR1);           // for the thread alone
}

void set_timers() {
  const itimerval real{{3, 7}, {1000, 0}};
  setitimer(ITIMER_REAL, &real, nullptr);
  const itimerval prof{{0, 0}, {500, 0}};
  setitimer(ITIMER_PROF, &prof, nullptr);
  for (int i = 0; i < 7; ++i) {
    struct sigevent event {};
    event.sigev_notify = i % 2 == 0 ? SIGEV_SIGNAL : SIGEV_NONE;
    event.sigev_signo = SIGRTMIN + i;
    event.sigev_value.sival_ptr = reinterpret_cast<void*>(0xabcd00000000 + i);
    int id = 0;
    syscall(SYS_timer_create, i == 3 ? CLOCK_PROCESS_CPUTIME_ID : CLOCK_BOOTTIME, &event, &id);
    const itimerspec spec{{i, 5}, {2000 + i, 0}};
    if (i != 6) syscall(SYS_timer_settime, id, 0, &spec, nullptr);
    if (i == 1 || i == 4) syscall(SYS_timer_delete, id);
  }
}

void set_thread(const char* name, int nice, int policy, int cpu) {
  const auto tid = static_cast<id_t>(syscall(SYS_gettid));
  prctl(PR_SET_NAME, name);
  const sched_param none{};
  sched_setscheduler(0, policy, &none);
  setpriority(PRIO_PROCESS, tid, nice);
  prctl(PR_SET_TIMERSLACK, 77'000 + nice);
  syscall(SYS_ioprio_set, kIoPriorityOfThread, 0, 2 << 13 | nice);
  if (cpu >= 0) {
    cpu_set_t cpus;
    CPU_ZERO(&cpus);
    CPU_SET(cpu, &cpus);
    sched_setaffinity(0, sizeof(cpus), &cpus);
  }
  const stack_t stack{new char[65536], 0, 65536};
  sigaltstack(&stack, nullptr);
}

void set_attributes() {
  personality(ADDR_NO_RANDOMIZE);
  prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0);
  prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
  syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0, 0);
  syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED, 0, 0);
  const UniqueFd filter = open_file("/proc/self/coredump_filter", O_WRONLY);
  const UniqueFd score = open_file("/proc/self/oom_score_adj", O_WRONLY);
  if (write(filter.get(), "0x11", 4) != 4 || write(score.get(), "77", 2) != 2) _exit(1);
  umask(0134);
  if (chdir("/usr/lib") != 0) _exit(1);
  const rlimit files{100, 200};
  setrlimit(RLIMIT_NOFILE, &files);
  const rlimit core{1000, 2000};
  setrlimit(RLIMIT_CORE, &core);
}

std::uint64_t bit(int capability) { return 1ULL << capability; }

// In every thread, as the kernel sees it.
void set_credentials() {
  const gid_t groups[] = {11, 12, 4'000'000'000};
  syscall(SYS_setgroups, 3, groups);
  prctl(PR_SET_SECUREBITS, 0x2c);  // NO_SETUID_FIXUP and its lock, KEEP_CAPS' lock
  prctl(PR_CAPBSET_DROP, CAP_SYS_BOOT);
  syscall(SYS_setresgid, 21, 22, 23);
  syscall(SYS_setfsgid, 23);
  syscall(SYS_setresuid, 31, 32, 33);
  syscall(SYS_setfsuid, 33);
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  const auto some = static_cast<std::uint32_t>(bit(CAP_KILL) | bit(CAP_CHOWN) | bit(CAP_SETPCAP));
  const auto inherit = static_cast<std::uint32_t>(bit(CAP_CHOWN) | bit(CAP_SYS_CHROOT));
  const __user_cap_data_struct data[2] = {{some, some, inherit}, {0, 0, 0}};
  syscall(SYS_capset, &header, data);
  prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_CHOWN, 0, 0);
  const auto fewer = static_cast<std::uint32_t>(bit(CAP_CHOWN));
  const __user_cap_data_struct last[2] = {{fewer, some, inherit}, {0, 0, 0}};
  syscall(SYS_capset, &header, last);
  prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
  prctl(PR_SET_PDEATHSIG, SIGWINCH);
}

void nothing() {}

proto::Process capture(Subject& subject) {
  CaptureContext context = subject.context();
  proto::Process process;
  for (proto::Thread& thread : capture_threads(context)) *process.add_threads() = thread;
  *process.mutable_signals() = capture_signals(context);
  *process.mutable_timers() = capture_timers(context);
  *process.mutable_credentials() = capture_credentials(context);
  *process.mutable_rlimits() = capture_rlimits(context);
  *process.mutable_filesystem_context() = capture_filesystem_context(context);
  *process.mutable_attributes() = capture_process_attributes(context);
  return process;
}

void run(RemoteTask& task, const std::function<void(SyscallBatch&)>& plan) {
  SyscallBatch batch;
  plan(batch);
  if (!batch.empty()) task.run(batch);
}

Tracee& thread_at(Subject& subject, int index) {
  return subject.task().threads().at(static_cast<std::size_t>(index));
}

pid_t tid_of(Subject& subject, int index) { return thread_at(subject, index).tid(); }

void restore_threads(Subject& subject, const proto::Process& want) {
  const auto online = online_processors();
  const CapabilitiesHere here = capabilities_here();
  for (int i = 0; i < want.threads_size(); ++i) {
    Tracee& tracee = thread_at(subject, i);
    SyscallBatch batch;
    plan_rseq_removal(tracee.rseq(), batch);
    plan_new_thread(want.threads(i), online, batch);
    plan_credentials(here, want.credentials(), batch);
    plan_thread_last(want.threads(i), batch);
    plan_pending(subject.pid(), tid_of(subject, i), want.threads(i).pending(), batch);
    subject.task().run_on(tracee, batch);
  }
}

// Everything, in the order of a real switch.
void restore(Subject& subject, proto::Process want) {
  RemoteTask& task = subject.task();
  run(task, [&](SyscallBatch& batch) {
    plan_signal_defaults(batch);
    plan_signals({}, want.signals(), batch);
    plan_process_attributes(want.attributes(), batch);
    plan_filesystem_context(filesystem_context_here(), want.filesystem_context(), batch);
  });
  restore_posix_timers(task, {}, want.timers());
  const WaitingTimers waiting = find_waiting_timers(task, want, monotonic_ns());
  remove_signals_of(waiting, want);
  apply_process_attributes(subject.pid(), want.attributes());
  restore_threads(subject, want);
  run(task, [&](SyscallBatch& batch) {
    plan_shared_pending(want.signals(), subject.pid(), batch);
    plan_timers_armed(want.timers(), waiting, 0, batch);
    plan_rlimits(rlimits_here(), want.rlimits(), may_raise_hard_limits(), batch);
    plan_process_attributes_last(want.attributes(), batch);
  });
  for (int i = 0; i < want.threads_size(); ++i) {
    apply_thread_registers(thread_at(subject, i), want.threads(i));
  }
}

// Ids that differ because the two are different processes, and times that run on.
proto::Process comparable(proto::Process process) {
  for (proto::Thread& thread : *process.mutable_threads()) {
    thread.clear_tid();
    thread.clear_host_tid();
  }
  for (proto::IntervalTimer& timer : *process.mutable_timers()->mutable_interval_timers()) {
    timer.set_remaining_ns(timer.remaining_ns() / 60'000'000'000);
  }
  for (proto::PosixTimer& timer : *process.mutable_timers()->mutable_posix_timers()) {
    timer.set_remaining_ns(timer.remaining_ns() / 60'000'000'000);
  }
  return process;
}

void expect_restored(void (*first)(), void (*second)()) {
  Subject original(first, second);
  const proto::Process want = capture(original);
  Subject copy(nothing, nothing);
  restore(copy, want);
  const proto::Process found = capture(copy);
  EXPECT_EQ(comparable(found).DebugString(), comparable(want).DebugString());
}

TEST(RestoreLaw, OrdinaryProcess) { expect_restored(nothing, nothing); }

TEST(RestoreLaw, Signals) {
  expect_restored(set_signals, [] { raise(SIGCONT); });
}

TEST(RestoreLaw, PendingOfAnotherThread) {
  expect_restored(nothing, [] {
    pthread_sigqueue(pthread_self(), SIGRTMIN + 9, {.sival_int = 5});
    raise(SIGHUP);
  });
}

TEST(RestoreLaw, Timers) {
  Subject original(set_timers, nothing);
  EXPECT_EQ(capture(original).timers().posix_timers_size(), 5);
  expect_restored(set_timers, nothing);
}
TEST(RestoreLaw, Threads) {
  expect_restored([] { set_thread("first (one)", 3, SCHED_OTHER, -1); },
                  [] { set_thread("second", 5, SCHED_BATCH, 0); });
}

TEST(RestoreLaw, IdleAndRealTimePolicies) {
  expect_restored([] { set_thread("idle", 0, SCHED_IDLE, 0); },
                  [] {
                    const sched_param priority{.sched_priority = 3};
                    sched_setscheduler(0, SCHED_RR | SCHED_RESET_ON_FORK, &priority);
                  });
}

TEST(RestoreLaw, Attributes) { expect_restored(set_attributes, nothing); }

TEST(RestoreLaw, Credentials) {
  Subject original(set_credentials, set_credentials);
  const proto::Credentials credentials = capture(original).credentials();
  EXPECT_EQ(credentials.uid_saved(), 33u);
  EXPECT_EQ(credentials.capabilities_ambient(), bit(CAP_CHOWN));
  EXPECT_EQ(credentials.groups_size(), 3);
  expect_restored(set_credentials, set_credentials);
}

TEST(RestoreLaw, Everything) {
  expect_restored(
      [] {
        set_timers();
        set_attributes();
        set_thread("all of it", 2, SCHED_OTHER, 0);
        set_signals();
        set_credentials();
      },
      [] {
        set_thread("and more", 4, SCHED_BATCH, -1);
        usleep(150'000);
        set_credentials();
      });
}

TEST(RestoreLaw, PlanningTheSameTwicePlansNothing) {
  Subject original(set_signals, nothing);
  const proto::Process process = capture(original);
  SyscallBatch batch;
  plan_signals(process.signals(), process.signals(), batch);
  plan_thread(process.threads(0), process.threads(0), online_processors(), batch);
  plan_process_attributes(process.attributes(), process.attributes(), batch);
  plan_filesystem_context(process.filesystem_context(), process.filesystem_context(), batch);
  EXPECT_TRUE(batch.empty()) << batch.print();
}

TEST(RestoreLaw, ActionsThatWentAwayAreTakenBack) {
  Subject subject(set_signals, nothing);
  CaptureContext context = subject.context();
  const proto::Signals have = capture_signals(context);
  ASSERT_GE(have.actions_size(), 3);
  run(subject.task(), [&](SyscallBatch& batch) { plan_signals(have, {}, batch); });
  EXPECT_EQ(capture_signals(context).actions_size(), 0);
}

// A timer that has gone off, with its signal blocked, waits for that to be taken.
void let_timers_wait_for_their_signals() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGALRM);
  sigaddset(&set, SIGRTMIN + 4);
  sigaddset(&set, SIGRTMIN + 5);
  sigprocmask(SIG_BLOCK, &set, nullptr);
  const itimerval real{{7200, 0}, {0, 1}};
  setitimer(ITIMER_REAL, &real, nullptr);
  for (int i = 0; i < 2; ++i) {
    struct sigevent event {};
    event.sigev_notify = SIGEV_SIGNAL;
    event.sigev_signo = SIGRTMIN + 4 + i;
    event.sigev_value.sival_int = 77 + i;
    int id = 0;
    syscall(SYS_timer_create, i == 0 ? CLOCK_MONOTONIC : CLOCK_BOOTTIME, &event, &id);
    const itimerspec spec{{7200, 0}, {0, 1000}};
    syscall(SYS_timer_settime, id, 0, &spec, nullptr);
  }
  usleep(10'000);
}

TEST(RestoreLaw, TimersThatWaitForTheirSignals) {
  Subject original(let_timers_wait_for_their_signals, nothing);
  const proto::Process want = capture(original);
  ASSERT_EQ(want.timers().interval_timers_size(), 1);
  EXPECT_EQ(want.timers().interval_timers(0).remaining_ns(), 0);
  EXPECT_EQ(want.signals().pending_size() + want.threads(0).pending_size(), 3);
  expect_restored(let_timers_wait_for_their_signals, nothing);
}

// Once the signal is taken all goes on, and no signal came twice.
TEST(RestoreTimers, GoOnWhenTheirSignalIsTaken) {
  Subject original(let_timers_wait_for_their_signals, nothing);
  const proto::Process want = capture(original);
  Subject copy(nothing, nothing);
  restore(copy, want);
  SyscallBatch batch;
  const DataAt set = batch.put_value(~std::uint64_t{0});
  const DataAt none = batch.put_value(timespec{});
  std::vector<RowResult> taken;
  for (int i = 0; i < 4; ++i) {
    taken.push_back(batch.add_may_fail(SYS_rt_sigtimedwait, {set, 0, none, 8}));
  }
  const BatchOutcome outcome = copy.task().run(batch);
  std::vector<std::int64_t> signals;
  for (const RowResult& row : taken) signals.push_back(outcome[row]);
  std::sort(signals.begin(), signals.end());
  EXPECT_EQ(signals, (std::vector<std::int64_t>{-EAGAIN, SIGALRM, SIGRTMIN + 4, SIGRTMIN + 5}));
  const proto::Timers timers = capture(copy).timers();
  ASSERT_EQ(timers.interval_timers_size(), 1);
  EXPECT_NEAR(static_cast<double>(timers.interval_timers(0).remaining_ns()), 7200e9, 60e9);
  ASSERT_EQ(timers.posix_timers_size(), 2);
  for (const proto::PosixTimer& timer : timers.posix_timers()) {
    EXPECT_NEAR(static_cast<double>(timer.remaining_ns()), 7200e9, 60e9);
    EXPECT_EQ(timer.interval_ns(), 7200'000'000'000);
    EXPECT_EQ(timer.overrun(), 0);
  }
}

TEST(RestoreLaw, TimersThatChangedAreReplaced) {
  if (prctl(kTimerCreateRestoreIds, 0, 0, 0, 0) != 0) GTEST_SKIP() << "no number is given twice";
  Subject subject(set_timers, nothing);
  CaptureContext context = subject.context();
  const proto::Timers have = capture_timers(context);
  proto::Timers want = have;
  want.mutable_posix_timers(0)->set_signal(SIGUSR2);
  want.mutable_posix_timers()->DeleteSubrange(1, 1);
  auto& far = *want.add_posix_timers();
  far = want.posix_timers(0);
  far.set_id(1234);
  restore_posix_timers(subject.task(), have, want);
  const proto::Timers found = capture_timers(context);
  ASSERT_EQ(found.posix_timers_size(), want.posix_timers_size());
  EXPECT_EQ(found.posix_timers(0).signal(), SIGUSR2);
  EXPECT_EQ(found.posix_timers().rbegin()->id(), 1234);
}

TEST(RestoreTimers, NumbersByCountingWhereTheKernelGivesNone) {
  Subject subject(nothing, nothing);
  proto::Timers want;
  for (const int id : {0, 1, 3, 700}) {
    auto& timer = *want.add_posix_timers();
    timer.set_id(id);
    timer.set_clock(CLOCK_MONOTONIC);
    timer.set_notify(SIGEV_SIGNAL);
    timer.set_signal(SIGUSR1);
  }
  restore_posix_timers(subject.task(), {}, want, TimerNumbers::kByCounting);
  CaptureContext context = subject.context();
  const proto::Timers found = capture_timers(context);
  ASSERT_EQ(found.posix_timers_size(), 4);
  EXPECT_EQ(found.posix_timers(0).id(), 0);
  EXPECT_EQ(found.posix_timers(2).id(), 3);
  EXPECT_EQ(found.posix_timers(3).id(), 700);
  // The counter does not go back.
  proto::Timers more;
  *more.add_posix_timers() = want.posix_timers(0);
  more.mutable_posix_timers(0)->set_id(5);
  EXPECT_THROW(restore_posix_timers(subject.task(), {}, more, TimerNumbers::kByCounting), Error);
}

TEST(RestoreFilesystemContext, RootAndDirectoryInsideIt) {
  proto::FilesystemContext want;
  want.set_root("/usr");
  want.set_working_directory("/usr/lib");
  Subject subject(nothing, nothing);
  run(subject.task(), [&](SyscallBatch& batch) {
    plan_filesystem_context(filesystem_context_here(), want, batch);
  });
  CaptureContext context = subject.context();
  EXPECT_EQ(capture_filesystem_context(context).root(), "/usr");
  EXPECT_EQ(capture_filesystem_context(context).working_directory(), "/usr/lib");
  proto::FilesystemContext next = want;
  next.set_working_directory("/usr");
  run(subject.task(), [&](SyscallBatch& batch) { plan_filesystem_context(want, next, batch); });
  EXPECT_EQ(capture_filesystem_context(context).working_directory(), "/usr");
  next.set_root("/");
  SyscallBatch batch;
  EXPECT_THROW(plan_filesystem_context(want, next, batch), Error);
}

}  // namespace
}  // namespace godwit
