// A sleep of ten seconds is captured, told that less is left, and put back: it must end at that
// time, with the result and the memory that it would have had.
#include <gtest/gtest.h>
#include <linux/futex.h>
#include <poll.h>
#include <sys/syscall.h>

#include <cerrno>

#include "common/remote/test_child.h"
#include "dest-agent/restore/blocked_calls.h"
#include "dest-agent/restore/threads.h"
#include "source-agent/capture/threads.h"

namespace godwit {
namespace {

using testing::Child;
using testing::Shared;
using testing::wait_asleep;

constexpr std::int64_t kLeftNs = 400'000'000;
const timespec kTen{10, 0};

struct Outcome {
  std::int64_t result = -99;
  int code = 0;
  timespec time{10, 0};
  timespec rest{7, 7};
  int word = 5;
  pollfd descriptor{};
  int handled = 0;
};

struct SleepCase {
  const char* name;
  std::int64_t (*call)(Outcome&);
  std::int64_t result;
  int code;
};

const SleepCase kSleeps[] = {
    {"nanosleep", [](Outcome& out) { return syscall(SYS_nanosleep, &out.time, nullptr); }, 0, 0},
    {"nanosleep, rest", [](Outcome& out) { return syscall(SYS_nanosleep, &out.time, &out.rest); },
     0, 0},
    {"clock_nanosleep, read-only time",
     [](Outcome&) { return syscall(SYS_clock_nanosleep, CLOCK_BOOTTIME, 0, &kTen, nullptr); }, 0,
     0},
    {"futex",
     [](Outcome& out) {
       return syscall(SYS_futex, &out.word, FUTEX_WAIT_PRIVATE, 5, &out.time, nullptr, 0);
     },
     -1, ETIMEDOUT},
#ifdef SYS_poll
    {"poll", [](Outcome& out) { return syscall(SYS_poll, &out.descriptor, 0, 10'000); }, 0, 0},
#endif
};

void sleep_in(const SleepCase& sleep, Outcome& out) {
  out.result = sleep.call(out);
  out.code = out.result < 0 ? errno : 0;
}

// Captures, pretends that kLeftNs are left, puts it back.
void put_back(RemoteTask& task, pid_t pid, bool run_batch) {
  task.stop();
  CaptureContext context{task, pid};
  proto::Thread thread = capture_threads(context).at(0);
  thread.mutable_blocked_call()->set_remaining_ns(kLeftNs);
  ASSERT_TRUE(needs_resumed_call(thread));
  apply_thread_registers(task.leader(), thread);
  ASSERT_TRUE(resume_blocked_call(task, task.leader(), thread, 0));
  if (run_batch) {
    SyscallBatch batch;
    batch.add(SYS_getpid, {});
    task.run(batch);
  }
}

TEST(ResumedCalls, EndAfterTheRest) {
  for (const bool run_batch : {false, true}) {
    for (const SleepCase& sleep : kSleeps) {
      SCOPED_TRACE(sleep.name);
      Shared<Outcome> out;
      Child child([&] {
        sleep_in(sleep, *out);
        return 0;
      });
      ASSERT_TRUE(wait_asleep(child.pid()));
      std::int64_t begin = 0;
      {
        RemoteTask task = RemoteTask::attach(child.pid());
        put_back(task, child.pid(), run_batch);
        begin = monotonic_ns();
        usleep(50'000);  // the deadline is the kernel's already, while the thread is still stopped
      }
      EXPECT_EQ(child.wait(), 0);
      const auto took = static_cast<double>(monotonic_ns() - begin);
      EXPECT_NEAR(took, kLeftNs, 150e6);
      EXPECT_EQ(out->result, sleep.result);
      EXPECT_EQ(out->code, sleep.code);
      EXPECT_EQ(out->time.tv_sec, 10);
      EXPECT_EQ(out->time.tv_nsec, 0);
    }
  }
}

TEST(ResumedCalls, AHandlerStillEndsTheSleepWithEintr) {
  Shared<Outcome> out;
  static Outcome* outcome = &*out;
  Child child([&] {
    struct sigaction action {};
    action.sa_handler = [](int) { ++outcome->handled; };
    sigaction(SIGUSR1, &action, nullptr);
    sleep_in(kSleeps[1], *out);
    return 0;
  });
  ASSERT_TRUE(wait_asleep(child.pid()));
  {
    RemoteTask task = RemoteTask::attach(child.pid());
    put_back(task, child.pid(), false);
    kill(child.pid(), SIGUSR1);
  }
  EXPECT_EQ(child.wait(), 0);
  EXPECT_EQ(out->handled, 1);
  EXPECT_EQ(out->result, -1);
  EXPECT_EQ(out->code, EINTR);
  EXPECT_LT(out->rest.tv_sec, 1) << "the rest is what was left";
  EXPECT_EQ(out->time.tv_sec, 10);
}

TEST(ResumedCalls, AFutexThatChangedMeanwhileEnds) {
  Shared<Outcome> out;
  Child child([&] {
    sleep_in(kSleeps[3], *out);
    return 0;
  });
  ASSERT_TRUE(wait_asleep(child.pid()));
  {
    RemoteTask task = RemoteTask::attach(child.pid());
    task.stop();
    out->word = 6;
    put_back(task, child.pid(), false);
  }
  EXPECT_EQ(child.wait(), 0);
  EXPECT_EQ(out->result, -1);
  EXPECT_EQ(out->code, EAGAIN);
}

TEST(ResumedCalls, NotWhereTheProgramSeesTheRestItself) {
  proto::Thread thread;
  EXPECT_FALSE(needs_resumed_call(thread));
  proto::BlockedCall& call = *thread.mutable_blocked_call();
  call.set_number(SYS_nanosleep);
  for (const std::uint64_t argument : {0x1000, 0x1000, 0, 0, 0, 0}) call.add_arguments(argument);
  call.set_remaining_ns(5);
  EXPECT_FALSE(needs_resumed_call(thread));
  call.set_arguments(1, 0x2000);
  EXPECT_TRUE(needs_resumed_call(thread));
  call.set_remaining_ns(-1);
  EXPECT_FALSE(needs_resumed_call(thread));
}

}  // namespace
}  // namespace godwit
