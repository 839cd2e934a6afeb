// What a stop and a batch must leave exactly as it was: registers, vector state, signals, the place
// in the vDSO, an rseq section's atomicity; and tasks under seccomp.
#include <gtest/gtest.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/rseq.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>

#include <atomic>
#include <cstring>

#include "arch/register_probe.h"
#include "common/base/error.h"
#include "common/remote/remote_task.h"
#include "common/remote/test_child.h"

namespace godwit {
namespace {

using testing::Child;
using testing::Shared;
using testing::traces_of_us;
using testing::wait_until;

SyscallBatch some_calls() {
  SyscallBatch batch;
  const RowResult fd = batch.add(SYS_signalfd4, {-1, batch.put_value(std::uint64_t{0}), 8, 0});
  batch.add(SYS_getpid, {});
  batch.add(SYS_close, {fd});
  return batch;
}

TEST(UntouchedState, EveryRegister) {
  Shared<arch::RegisterProbe> probe;
  probe->go_on = 1;
  probe->wide = arch::probed_vector_bytes() > 16;
  for (std::size_t i = 0; i < sizeof probe->put; ++i) {
    probe->put[i] = static_cast<std::byte>(i * 37 + i / 64);
  }
  for (std::uint64_t i = 0; i < 8; ++i) probe->masks_put[i] = 0x0123456789abcdef * (i + 1);
  probe->control_put = 0x7f80;  // x86: round towards zero, everything masked
  Child child([&] {
    arch::godwit_probe_registers(&*probe);
    return 0;
  });
  RemoteTask task = RemoteTask::attach(child.pid());
  const SyscallBatch batch = some_calls();
  for (int i = 0; i < 50; ++i) {
    task.stop();
    task.run(batch);
    const std::vector<std::byte> state = task.leader().vector_state();
    task.run(batch);
    EXPECT_EQ(task.leader().vector_state(), state);
    Tracee* leader = &task.leader();
    task.run_on_each(std::span(&leader, 1), batch, [](Tracee&, const BatchOutcome&) {});
    EXPECT_EQ(task.leader().vector_state(), state);
    task.resume();
    usleep(300);
  }
  task.detach();
  probe->go_on = 0;
  ASSERT_EQ(child.wait(), 0);
  const std::size_t used = arch::probed_vector_bytes();
  for (std::size_t n = 0; n < (used == 64 ? 32 : 16); ++n) {
    EXPECT_EQ(memcmp(probe->put + 64 * n, probe->found + 64 * n, used), 0) << "vector " << n;
  }
  for (std::size_t i = 0; i < arch::kGeneralProbed; ++i) {
    EXPECT_EQ(probe->general_found[i], arch::kGeneralPattern + i);
  }
  for (int i = 1; i < 8 && used == 64; ++i) EXPECT_EQ(probe->masks_found[i], probe->masks_put[i]);
  EXPECT_EQ(probe->control_found, probe->control_put);
  EXPECT_EQ(probe->flags_found & arch::probed_flags(), arch::probed_flags());
}

TEST(UntouchedState, SignalsDuringBatchesArrive) {
  struct Counts {
    std::atomic<int> ready{0}, real_time{0}, urgent{0}, waited{0}, bad{0};
  };
  static Counts* counts;
  Shared<Counts> shared;
  counts = &*shared;
  Child child([&] {
    struct sigaction action {};
    action.sa_sigaction = [](int signal, siginfo_t* info, void*) {
      if (signal == SIGURG) ++counts->urgent;
      if (signal == SIGRTMIN + 1 && info->si_value.sival_int == counts->real_time) {
        ++counts->real_time;
      }
      if (info->si_pid != getppid()) ++counts->bad;
    };
    action.sa_flags = SA_SIGINFO | SA_RESTART;
    sigaction(SIGRTMIN + 1, &action, nullptr);
    // All that could carry our notification is spoken for.
    for (const int signal : {SIGURG, SIGWINCH, SIGCHLD, SIGCONT}) {
      sigaction(signal, &action, nullptr);
    }
    shared->ready = 1;
    for (;;) pause();
    return 0;
  });
  ASSERT_TRUE(wait_until([&] { return shared->ready == 1; }));
  RemoteTask task = RemoteTask::attach(child.pid());
  const SyscallBatch batch = some_calls();
  for (int i = 0; i < 200; ++i) {
    const sigval value{.sival_int = i};
    if (i % 3 == 0) sigqueue(child.pid(), SIGRTMIN + 1, value);
    if (i % 2 == 0) kill(child.pid(), SIGURG);
    task.stop();
    if (i % 3 == 1) sigqueue(child.pid(), SIGRTMIN + 1, value);
    task.run(batch);
    if (i % 2 == 1) kill(child.pid(), SIGURG);
    task.run(batch);
    if (i % 3 == 2) sigqueue(child.pid(), SIGRTMIN + 1, value);
    task.resume();
    EXPECT_TRUE(wait_until([&] { return shared->urgent == i + 1 && shared->real_time == i + 1; }))
        << i << ": " << shared->urgent << " " << shared->real_time;
  }
  EXPECT_EQ(shared->bad, 0);
}

TEST(UntouchedState, BlockedSignalsStayPending) {
  Shared<std::atomic<int>> got;
  Child child([&] {
    sigset_t set;
    sigemptyset(&set);
    for (const int signal : {SIGURG, SIGWINCH, SIGCHLD, SIGCONT}) sigaddset(&set, signal);
    sigprocmask(SIG_BLOCK, &set, nullptr);
    *got = 1;
    while (*got == 1) usleep(100);
    int count = 0;
    const timespec now{0, 0};
    while (sigtimedwait(&set, nullptr, &now) > 0) ++count;
    return count;
  });
  ASSERT_TRUE(wait_until([&] { return *got == 1; }));
  RemoteTask task = RemoteTask::attach(child.pid());
  kill(child.pid(), SIGURG);
  task.stop();
  kill(child.pid(), SIGWINCH);
  task.run(some_calls());
  kill(child.pid(), SIGCHLD);
  task.run(some_calls());
  EXPECT_EQ(
      task.leader().pending_signals(true).size() + task.leader().pending_signals(false).size(), 3u);
  EXPECT_EQ(task.leader().signal_mask(),
            1u << (SIGURG - 1) | 1u << (SIGWINCH - 1) | 1u << (SIGCHLD - 1) | 1u << (SIGCONT - 1));
  task.detach();
  *got = 2;
  EXPECT_EQ(child.wait(), 3);
}

TEST(UntouchedState, AStoppedProcessStaysStopped) {
  const Child child([] {
    for (;;) usleep(1000);
    return 0;
  });
  kill(child.pid(), SIGSTOP);
  ASSERT_TRUE(wait_until([&] { return read_proc_stat(child.pid()).state == 'T'; }));
  RemoteTask task = RemoteTask::attach(child.pid());
  for (int i = 0; i < 3; ++i) {
    task.stop();
    EXPECT_EQ(task.leader().group_stop_signal(), SIGSTOP);
    task.run(some_calls());
    task.resume();
    EXPECT_TRUE(wait_until([&] { return read_proc_stat(child.pid()).state == 'T'; }));
  }
  task.detach();
  kill(child.pid(), SIGCONT);
  EXPECT_TRUE(wait_until([&] { return read_proc_stat(child.pid()).state == 'S'; }));
  // SIGSTOP in the middle of it all.
  RemoteTask again = RemoteTask::attach(child.pid());
  again.stop();
  kill(child.pid(), SIGSTOP);
  again.run(some_calls());
  again.detach();
  EXPECT_TRUE(wait_until([&] { return read_proc_stat(child.pid()).state == 'T'; }));
  EXPECT_EQ(traces_of_us(child.pid()), "");
}

TEST(UntouchedState, StepsOutOfTheVdso) {
  Shared<std::atomic<std::uint64_t>> rounds;
  const Child child([&] {
    timespec now{};
    for (;;) {
      for (int i = 0; i < 100; ++i) clock_gettime(CLOCK_MONOTONIC, &now);
      ++*rounds;
    }
    return 0;
  });
  ASSERT_TRUE(wait_until([&] { return *rounds > 10; }));
  RemoteTask task = RemoteTask::attach(child.pid());
  PageRange vdso;
  for (const MapsLine& line : read_maps(child.pid())) {
    if (line.path == "[vdso]") vdso = line.range;
  }
  int inside = 0;
  for (int i = 0; i < 100; ++i) {
    task.stop();
    inside += vdso.contains(task.leader().registers().instruction_pointer());
    task.step_out_of_vdso(task.leader());
    EXPECT_FALSE(vdso.contains(task.leader().registers().instruction_pointer()));
    task.run(some_calls());
    task.resume();
  }
  EXPECT_GT(inside, 0);  // how often depends on what else runs
  task.detach();
  const std::uint64_t before = *rounds;
  EXPECT_TRUE(wait_until([&] { return *rounds > before + 1000; }));
}

// A stop aborts the section, as every preemption does; a batch must not make it look finished.
TEST(UntouchedState, RseqSectionsAreAborted) {
  struct Progress {
    volatile std::uint32_t go_on = 1;
    volatile std::uint64_t aborts = 0;
  };
  Shared<Progress> shared;
  Child child([&] {
    char* const area = static_cast<char*>(__builtin_thread_pointer()) + __rseq_offset;
    arch::godwit_probe_rseq(area, &shared->go_on, &shared->aborts);
    return 0;
  });
  RemoteTask task = RemoteTask::attach(child.pid());
  usleep(5000);
  for (int i = 0; i < 100; ++i) {
    const std::uint64_t before = shared->aborts;
    task.stop();
    ASSERT_TRUE(task.leader().rseq().has_value());
    const Address there = task.leader().registers().instruction_pointer();
    const Address portable = task.leader().portable_registers(nullptr).instruction_pointer();
    task.run(some_calls());
    EXPECT_EQ(task.leader().registers().instruction_pointer(), portable) << "was at " << there;
    EXPECT_EQ(task.leader().portable_registers(nullptr).instruction_pointer(), portable);
    task.run(some_calls());
    task.resume();
    ASSERT_TRUE(wait_until([&] { return shared->aborts > before; }, 1000)) << i;
  }
  task.detach();
  shared->go_on = 0;
  EXPECT_EQ(child.wait(), 0);
}

// The call goes on by itself elsewhere: from its beginning, and the caller knows which it was.
TEST(UntouchedState, PortableRegistersRepeatTheCall) {
  const Child child([] {
    const timespec time{1000, 0};
    nanosleep(&time, nullptr);
    return 0;
  });
  ASSERT_TRUE(testing::wait_asleep(child.pid()));
  RemoteTask task = RemoteTask::attach(child.pid());
  task.stop();
  const auto check = [&] {
    std::optional<arch::InterruptedCall> blocked;
    const arch::Registers portable = task.leader().portable_registers(&blocked);
    const arch::Registers own = task.leader().registers();
    ASSERT_TRUE(blocked.has_value());
    EXPECT_EQ(blocked->number, SYS_clock_nanosleep);
    EXPECT_EQ(blocked->arguments[0], own.argument(0));
    EXPECT_EQ(portable.system_call(), -1);
    EXPECT_EQ(arch::next_call(portable), SYS_clock_nanosleep);  // where the call expects it
    EXPECT_EQ(portable.instruction_pointer() + arch::call_instruction().size(),
              blocked->return_address);
  };
  check();
  task.run(some_calls());
  check();
}

TEST(UntouchedState, TasksUnderSeccompAreServed) {
  Shared<std::atomic<int>> stage;
  Child child([&] {
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    // The strictest of filters: any call but exit_group kills the process.
    sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_exit_group, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
    };
    const sock_fprog program{4, code};
    if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0) return 1;
    *stage = 1;
    while (*stage == 1) {
    }
    if (*stage == 3) getppid();  // the filter must be back
    return 7;
  });
  ASSERT_TRUE(wait_until([&] { return *stage == 1; }));
  RemoteTask task = RemoteTask::attach(child.pid());
  for (int i = 0; i < 3; ++i) {
    task.stop();
    EXPECT_TRUE(task.run(some_calls()).complete());
    task.resume();
  }
  task.detach();
  *stage = 3;
  EXPECT_EQ(child.wait(), 1000 + SIGSYS);
}

}  // namespace
}  // namespace godwit
