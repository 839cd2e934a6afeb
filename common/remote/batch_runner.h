// Takes a stopped thread into the stub and waits until the stub says that it is done. Several
// threads can be there at a time, each with a save area of its own.
//
// Order makes the death of the agent harmless at any instant: what the tail needs is in the save
// area before the first register changes, and the mask goes back before the registers do. The stub
// says so by sending its own thread a signal that stops it for us before delivery, and that nobody
// notices without a tracer: the program neither catches it nor, where there is a choice, blocks it.
#pragma once

#include <cstdint>
#include <functional>
#include <initializer_list>
#include <vector>

#include "common/remote/task_memory.h"
#include "common/remote/tracee.h"

namespace godwit {

class BatchRunner {
 public:
  BatchRunner(pid_t host_pid, const TaskMemory& memory) : pid_(host_pid), memory_(memory) {}

  Address code() const { return code_; }
  void set_code(Address code);
  // The thread whose state the first save area holds, 0: none.
  pid_t owner() const { return owner_; }
  // What is known of the process's signal handlers is old: it has run.
  void forget_signals();

  // One call without any memory; its result, -errno on failure.
  std::int64_t call(Tracee& thread, long number, std::initializer_list<std::uint64_t> arguments);
  // Rows that stand in the task's memory; how many were made.
  std::uint64_t walk(Tracee& thread, Address rows, std::uint64_t count);
  // The same in two steps, with save area number `area` (save_areas()), of which nobody else makes
  // use in between. The thread goes back to its program by Tracee::give_back().
  void begin_walk(Tracee& thread, std::size_t area, Address rows, std::uint64_t count);
  std::uint64_t end_walk(Tracee& thread);
  // The save areas hold nobody's registers any more: every thread has been given back.
  void forget_owner() { owner_ = 0; }
  // Something to do here during the next walk().
  void do_meanwhile(std::function<void()> work) { meanwhile_ = std::move(work); }
  // exit(2) of that thread only.
  void end(Tracee& thread);
  // Host ids of the tasks that clone calls made since the last time.
  std::vector<pid_t> take_born() { return std::exchange(born_, {}); }
  pid_t inner_pid();

 private:
  void borrow(Tracee& thread, std::size_t area = 0);
  void write_save_area(Tracee& thread, std::size_t area);
  void suspend_seccomp(Tracee& thread);
  int choose_notify_signal(const Tracee& thread);
  void start(Tracee& thread, const arch::Registers& entry);
  // Until the stub notifies; the registers there.
  arch::Registers finish(Tracee& thread);
  arch::Registers run(Tracee& thread, const arch::Registers& entry,
                      const std::function<void()>& meanwhile = {});
  static void wait_for_stop(Tracee& thread, int* status);
  bool handle_stop(Tracee& thread, int status, arch::Registers& registers);
  int start_signal(Tracee& thread);

  pid_t pid_;
  const TaskMemory& memory_;
  Address code_ = 0;
  pid_t owner_ = 0;
  pid_t inner_pid_ = 0;
  std::uint64_t caught_ = 0;
  bool caught_known_ = false;
  bool can_suspend_seccomp_ = true;
  std::vector<pid_t> born_;
  std::function<void()> meanwhile_;
};

}  // namespace godwit
