// RemoteTask: system calls inside a stopped process, in batches, one round trip each.
//
// Where the code that makes the calls lives. On the source nothing is mapped for it: it sits in the
// zero bytes behind the vDSO image (or behind the text of another executable mapping), written
// through /proc/PID/mem into a private copy of that page, and given back as zeros. Its tail
// restores the task's registers and mask by itself: when the agent dies in the middle of a batch,
// the kernel detaches the task, the batch runs to its end, the tail finds no tracer and jumps back
// to where the task was. What such a death leaves behind (the bytes, the scratch area) is found and
// removed by the next attach. In a skeleton, whose vDSO has to be moved, the code gets a page of
// its own.
//
// Arguments, results and data are in a scratch area that is mapped for as long as the RemoteTask
// lives and is never part of a description (is_scratch()).
//
// A task under seccomp is served by suspending its filters while it is in our code. An agent that
// dies in the middle of a batch takes the suspension along: the rows left meet the filter, whatever
// it does.
//
// Costs (see remote_bench): one ptrace round trip a batch, no allocation in the task a call.
// Thread: all of it from the thread that attached.
#pragma once

#include <sys/types.h>

#include <functional>
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
  // A running process; nothing is seized before stop(), and nothing stays traced after resume().
  // What an agent that died left behind is removed at the first stop. Throws Error naming the pid
  // (traced by another, protected, gone).
  static RemoteTask attach(pid_t host_pid);

  // A skeleton: the process was made by clone_process() of another, or runs and is seized now; it
  // is stopped afterwards. It dies with the agent, or with this object, until let_live(). Code and
  // scratch that came along with the copied address space are used on.
  static RemoteTask adopt_skeleton(pid_t host_pid);

  RemoteTask(RemoteTask&&) noexcept;
  RemoteTask& operator=(RemoteTask&&) noexcept;
  ~RemoteTask();  // puts right, resumes and detaches; ends a skeleton that was not let live

  pid_t host_pid() const;

  // What a stop does first, shortly before it: seizes all threads, which run on. One that gets a
  // signal stands still from then on, so the stop should follow at once.
  void seize();
  // Stops all threads, also those that appear meanwhile; threads() is then complete, the leader
  // first.
  void stop();
  // Stops only these of a running process, which has been stopped as a whole before; resume() lets
  // them go on. threads() are those of them that have not ended, in this order, and batches run in
  // them; what such a batch asks of the process may change under it. Nothing is called around it
  // (watch_stops).
  void stop_some(std::span<const pid_t> host_tids);
  // What to call around every stop(): before the first thread is interrupted, and when all of them
  // stand still. A stop changes what /proc shows of a thread.
  void watch_stops(std::function<void()> before, std::function<void()> after);
  // Lets one stopped thread go on until `enough` says so, for some milliseconds at the most, and
  // stops it again. It may have made others, which are stopped too: no reference to a thread is
  // good afterwards.
  void let_run(pid_t host_tid, const std::function<bool()>& enough);
  // All go on exactly as if they had never been stopped. Waits for nothing. Tracees of an ordinary
  // process are let go and threads() is empty until the next stop().
  void resume();
  bool stopped() const;
  std::vector<Tracee>& threads();
  Tracee& leader();
  // Throws Error when no such thread is stopped here.
  Tracee& thread_by_host_tid(pid_t tid);

  // Runs a batch in the leader (or in `thread`); the process must be stopped. Throws Error naming
  // the failing call, its arguments, its object and the errno.
  BatchOutcome run(const SyscallBatch& batch);
  // `meanwhile` runs here as soon as the batch does there. What it throws comes when the batch has
  // ended.
  BatchOutcome run(const SyscallBatch& batch, std::function<void()> meanwhile);
  BatchOutcome run_on(Tracee& thread, const SyscallBatch& batch);
  // The same batch in each of these threads, as many of them at a time as there is room for their
  // registers. `take` gets the outcomes, in the threads' order. Whatever is thrown comes when none
  // of them runs any more.
  using TakeOutcome = std::function<void(Tracee&, const BatchOutcome&)>;
  void run_on_each(std::span<Tracee* const> threads, const SyscallBatch& batch,
                   const TakeOutcome& take);
  // The same, but a failing call is in the outcome instead of an exception.
  BatchOutcome try_run(const SyscallBatch& batch);

  // The descriptor of /proc/PID/mem, opened once, O_RDWR; it stays with this address space.
  int memory_fd() const;
  void read_memory(Address from, std::span<std::byte> to) const;  // throws on a short read
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
  // Unmaps the scratch area (the next batch maps one again). Before the process is frozen, since
  // nothing can run in it then: detach() has only memory to write afterwards.
  void unmap_scratch();

  // Brings a thread that was stopped inside the vDSO out of it, so that it can go on where another
  // vDSO stands. Right after stop(): the thread runs on for some microseconds to get there.
  void step_out_of_vdso(Tracee& thread);

  // Finishes: removes code and scratch from the task, restores every thread's registers and
  // detaches. A process in a frozen cgroup goes on when that is thawed.
  void detach();
  // After the process was killed: takes note of the threads that have ended, without waiting. The
  // kernel keeps each as a zombie until its tracer has. True when none is left.
  bool reap_killed() noexcept;

  // --- Skeletons only ---------------------------------------------------------------------------
  // Moves code and scratch to pages of their own inside `home` (at least kHomeBytes, nothing mapped
  // there now or later), so that everything else, the vDSO included, can be unmapped or moved.
  static constexpr std::uint64_t kHomeBytes = 1 << 20;
  void move_home(const PageRange& home);
  // The opposite, once the vDSO stands at its final place: unmaps the home, the code goes back into
  // the zeros behind the vDSO at `vdso`.
  void leave_home(const PageRange& vdso);
  // Makes a thread with this id (innermost pid namespace) by clone3 with set_tid; it is stopped.
  // The reference is good until the next end_thread().
  Tracee& clone_thread(pid_t tid);
  // Ends a thread other than the leader. `last` runs in it before.
  void end_thread(pid_t host_tid, const SyscallBatch& last = {});
  // The stopped thread's registers and mask are in the kernel as they are here: nothing is left to
  // do for it when it is let go.
  void settle(Tracee& thread) { thread.give_back(); }
  // Makes a child process with this id, by clone3 with set_tid in the leader; returns its host pid.
  // It is traced (adopt_skeleton) and is a copy of this process. `set_tid` 0: any id. `group`: a
  // descriptor of this process, of the folder of the control group that it is born in
  // (CLONE_INTO_CGROUP); -1: the group of this process.
  pid_t clone_process(pid_t set_tid, int group = -1);
  // The process no longer dies with the agent. Its threads have their registers from here on.
  void let_live();

  // Where the data of a batch of this size will be: for structures that hold pointers into it.
  // Valid up to the next batch that has more data.
  Address data_address(const SyscallBatch& batch);

 private:
  struct State;
  explicit RemoteTask(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace godwit
