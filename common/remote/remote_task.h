// RemoteTask: system calls inside a stopped process, in batches, one round trip each.
//
// Where the code that makes the calls lives. On the source nothing is mapped for it: it sits in the
// zero bytes behind the vDSO image (or behind the text of another executable mapping), written
// through /proc/PID/mem into a private copy of that page, and given back as zeros. Its tail restores
// the task's registers and mask by itself: when the agent dies in the middle of a batch, the kernel
// detaches the task, the batch runs to its end, the tail finds no tracer and jumps back to where the
// task was. What such a death leaves behind (the bytes, the scratch area) is found and removed by the
// next attach. In a skeleton, whose vDSO has to be moved, the code gets a page of its own.
//
// Arguments, results and data are in a scratch area that is mapped for as long as the RemoteTask
// lives and is never part of a description (is_scratch()).
//
// Costs (see remote_bench): one ptrace round trip a batch, no allocation in the task a call.
// Thread: all of it from the thread that attached.
#pragma once

#include <sys/types.h>

#include <memory>
#include <span>
#include <vector>

#include "common/base/page_range.h"
#include "common/base/unique_fd.h"
#include "common/remote/syscall_batch.h"
#include "common/remote/tracee.h"

namespace godwit {

class RemoteTask {
 public:
  // Seizes every thread of a running process; nothing stops yet. Removes what an agent that died
  // left behind (at the first stop). Throws Error naming the pid.
  static RemoteTask attach(pid_t host_pid);

  // A skeleton: the process was made by a traced parent's clone and is stopped, or about to. It dies
  // with the agent until let_live().
  static RemoteTask adopt_skeleton(pid_t host_pid);

  RemoteTask(RemoteTask&&) noexcept;
  RemoteTask& operator=(RemoteTask&&) noexcept;
  ~RemoteTask();  // puts right, resumes and detaches

  pid_t host_pid() const;

  // Stops all threads, also those that appear meanwhile; threads() is then complete, the leader first.
  void stop();
  // All go on exactly as if they had never been stopped. Waits for nothing.
  void resume();
  bool stopped() const;
  std::vector<Tracee>& threads();
  Tracee& leader();

  // Runs a batch in the leader (or in `thread`); the process must be stopped. Throws Error naming the
  // failing call, its arguments, its object and the errno.
  BatchOutcome run(const SyscallBatch& batch);
  BatchOutcome run_on(Tracee& thread, const SyscallBatch& batch);
  // The same, but a failing call is in the outcome instead of an exception.
  BatchOutcome try_run(const SyscallBatch& batch);

  // The descriptor of /proc/PID/mem, opened once, O_RDWR; it stays with this address space.
  int memory_fd() const;
  void read_memory(Address from, std::span<std::byte> to) const;    // throws on a short read
  void write_memory(Address to, std::span<const std::byte> from);
  template <typename T>
  T read_value(Address from) const {
    T value;
    read_memory(from, std::as_writable_bytes(std::span(&value, 1)));
    return value;
  }

  // A duplicate in the agent of one of the task's descriptors (pidfd_getfd(2)).
  UniqueFd copy_fd(int task_fd) const;
  const UniqueFd& pidfd() const;

  // True for the ranges that RemoteTask itself mapped.
  bool is_scratch(const PageRange& range) const;

  // Finishes: removes code and scratch from the task, restores every thread's registers and detaches.
  // With `frozen` the process sits in a frozen cgroup and will go on when that is thawed.
  void detach();

  // --- Skeletons only ---------------------------------------------------------------------------
  // Moves code and scratch to pages of their own inside `home` (at least kHomeBytes, nothing mapped
  // there now or later), so that everything else, the vDSO included, can be unmapped or moved.
  static constexpr std::uint64_t kHomeBytes = 1 << 20;
  void move_home(const PageRange& home);
  // The opposite, once the vDSO stands at its final place: unmaps the home, the code goes back into
  // the zeros behind the vDSO at `vdso`.
  void leave_home(const PageRange& vdso);
  // Makes a thread with this id (innermost pid namespace) by clone3 with set_tid; it is stopped.
  Tracee& clone_thread(pid_t tid);
  // Ends a thread other than the leader.
  void end_thread(pid_t host_tid);
  // Makes a child process with this id, by clone3 with set_tid in the leader; returns its host pid. It
  // is traced (adopt_skeleton) and is a copy of this process. `set_tid` 0: any id.
  pid_t clone_process(pid_t set_tid);
  // The process no longer dies with the agent.
  void let_live();

 private:
  struct State;
  explicit RemoteTask(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace godwit
