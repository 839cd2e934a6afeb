// What only skeletons do: a home of their own for our code, new threads, new processes.
#include <fmt/format.h>
#include <linux/sched.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>

#include "common/base/clock.h"
#include "common/base/error.h"
#include "common/kernel/ptrace.h"
#include "common/remote/remote_task_state.h"

namespace godwit {
namespace {

// A number stays taken for a moment after its task is gone from /proc.
constexpr std::int64_t kTakenTimeoutNs = 300'000'000;
constexpr int kRseqUnregister = 1;

void require_skeleton(const char* what, bool skeleton, pid_t pid) {
  if (!skeleton) fail("{}: process {} is not a skeleton", what, pid);
}

// clone3(2) as the only row, again while the number is still taken.
std::int64_t make_task(RemoteTask& task, std::uint64_t flags, int exit_signal, pid_t wanted,
                       int group = -1) {
  SyscallBatch batch;
  const DataAt arguments_at = batch.reserve(sizeof(clone_args));
  const DataAt id_at = batch.put_value(wanted);
  clone_args arguments{};
  arguments.flags = flags;
  arguments.exit_signal = static_cast<std::uint64_t>(exit_signal);
  if (group >= 0) {
    arguments.flags |= CLONE_INTO_CGROUP;
    arguments.cgroup = static_cast<std::uint64_t>(group);
  }
  if (wanted != 0) {
    arguments.set_tid = task.data_address(batch) + id_at.offset;
    arguments.set_tid_size = 1;
  }
  batch.set_value(arguments_at, arguments);
  batch.add(SYS_clone3, {arguments_at, sizeof arguments}, fmt::format("new task {}", wanted));
  const std::int64_t start = monotonic_ns();
  for (;;) {
    const BatchOutcome outcome = task.try_run(batch);
    const std::int64_t result = outcome.results().front();
    if (outcome.complete()) return result;
    if (result != -EEXIST || monotonic_ns() - start > kTakenTimeoutNs) {
      throw Error(fmt::format("clone3 in process {} with the id {}: {}", task.host_pid(), wanted,
                              errno_text(static_cast<int>(-result))),
                  static_cast<int>(-result),
                  result == -EEXIST ? "the id is taken on this host: use --pids namespace" : "");
    }
    usleep(1000);
  }
}

}  // namespace

RemoteTask RemoteTask::adopt_skeleton(pid_t host_pid) {
  RemoteTask task(std::make_unique<State>(host_pid, true));
  task.stop();
  return task;
}

// The destination of an rseq area that was inherited from the parent disappears with its memory;
// the kernel would end the thread at its next preemption.
void RemoteTask::State::unregister_rseq() {
  for (Tracee& thread : threads) {
    const auto area = ptrace_rseq(thread.tid());
    if (!area) continue;
    const std::int64_t got =
        call(thread, SYS_rseq, {area->address, area->bytes, kRseqUnregister, area->signature});
    if (got < 0) {
      throw_errno(static_cast<int>(-got),
                  fmt::format("unregister the rseq area of thread {}", thread.tid()));
    }
  }
}

void RemoteTask::State::move_code_to_home(const PageRange& home) {
  Tracee& thread = any_thread();
  SyscallBatch batch;
  const std::string object = fmt::format("home at {:#x}", home.start);
  batch.add(SYS_mmap,
            {home.start, home.bytes(), PROT_READ | PROT_WRITE,
             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0},
            object);
  batch.add(SYS_mprotect, {home.start, kPageSize, PROT_READ | PROT_EXEC}, object);
  const BatchOutcome outcome = run(thread, batch);
  if (!outcome.complete()) throw_failed_row(thread, batch, outcome);
  const SiteRecord old = record;
  const Address old_code = runner.code();
  record = {home.start + kPageSize, home.bytes() - kPageSize, home.start, home.bytes()};
  write_site(memory, home.start, record);
  runner.set_code(home.start);
  if (old.scratch_bytes != 0 && old.home_bytes == 0) {
    call(thread, SYS_munmap, {old.scratch_start, old.scratch_bytes});
  }
  if (old.home_bytes != 0) {
    call(thread, SYS_munmap, {old.home_start, old.home_bytes});
  } else {
    erase_site(memory, old_code);
  }
}

void RemoteTask::move_home(const PageRange& home) {
  State& state = *state_;
  require_skeleton("move_home", state.skeleton, state.pid);
  if (home.bytes() < kHomeBytes) {
    fail("the home at {:#x} has {} bytes, {} are needed", home.start, home.bytes(), kHomeBytes);
  }
  in_context(
      [&] {
        state.unregister_rseq();
        state.move_code_to_home(home);
      },
      "moving home in process {}", state.pid);
}

void RemoteTask::leave_home(const PageRange& vdso) {
  State& state = *state_;
  require_skeleton("leave_home", state.skeleton, state.pid);
  if (!state.has_home()) return;
  const auto room = find_room_in(state.memory, vdso);
  if (!room) {
    fail("the vDSO of process {} at {:#x} has no room for our code at its end", state.pid,
         vdso.start);
  }
  const SiteRecord old = std::exchange(state.record, {});
  write_site(state.memory, *room, state.record);
  state.runner.set_code(*room);
  const std::int64_t got =
      state.call(state.any_thread(), SYS_munmap, {old.home_start, old.home_bytes});
  if (got < 0) {
    throw_errno(static_cast<int>(-got),
                fmt::format("unmap the home of process {} at {:#x}", state.pid, old.home_start));
  }
}

Tracee& RemoteTask::clone_thread(pid_t tid) {
  State& state = *state_;
  require_skeleton("clone_thread", state.skeleton, state.pid);
  constexpr std::uint64_t kFlags =
      CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM;
  make_task(*this, kFlags, 0, tid);
  const std::vector<pid_t> born = state.runner.take_born();
  if (born.size() != 1) fail("process {}: clone3 reported {} new tasks", state.pid, born.size());
  Tracee thread = Tracee::adopt(born.front());
  thread.wait_stopped();
  if (thread.gone()) fail("thread {} of process {} ended at once", tid, state.pid);
  // Born in the middle of the stub, with the mask we had given its maker.
  Tracee& maker = leader();
  thread.own_ = maker.own_;
  thread.own_mask_ = maker.own_mask_;
  thread.borrowed_ = thread.mask_replaced_ = true;
  thread.own_changed_ = true;
  state.threads.push_back(std::move(thread));
  return state.threads.back();
}

void RemoteTask::end_thread(pid_t host_tid, const SyscallBatch& last) {
  State& state = *state_;
  if (host_tid == state.pid) fail("the leader of process {} cannot be ended alone", state.pid);
  Tracee& thread = thread_by_host_tid(host_tid);
  run_on(thread, last);
  state.prepare(thread);
  state.runner.end(thread);
  state.remove_gone();
}

pid_t RemoteTask::clone_process(pid_t set_tid, int group) {
  State& state = *state_;
  require_skeleton("clone_process", state.skeleton, state.pid);
  make_task(*this, 0, SIGCHLD, set_tid, group);
  const std::vector<pid_t> born = state.runner.take_born();
  if (born.size() != 1) fail("process {}: clone3 reported {} new tasks", state.pid, born.size());
  return born.front();
}

void RemoteTask::let_live() {
  State& state = *state_;
  // From here on our death must not be theirs: nobody stands in the stub any more.
  for (Tracee& thread : state.threads) thread.give_back();
  state.erase_own_site();
  for (Tracee& thread : state.threads) {
    thread.options_ = 0;
    if (const int code = try_ptrace_set_options(thread.tid(), 0); code != 0 && code != ESRCH) {
      throw_errno(code, fmt::format("let thread {} live", thread.tid()));
    }
  }
  state.expendable = false;
}

}  // namespace godwit
