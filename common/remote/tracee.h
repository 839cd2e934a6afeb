// One thread under ptrace (ptrace(2)), seized, never attached: group stops stay what they are.
//
// Every request comes from the thread that seized it (the kernel insists). While a tracee is
// stopped, registers() are the task's own: what RemoteTask does with it in the meantime is hidden,
// and resume(), detach() and the destructor give back exactly what registers() says.
#pragma once

#include <signal.h>
#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "arch/arch.h"
#include "common/base/page_range.h"

namespace godwit {

struct RseqConfiguration {
  Address address = 0;
  std::uint32_t bytes = 0;
  std::uint32_t signature = 0;
  std::uint32_t flags = 0;
};

class Tracee {
 public:
  // Seizes a running thread. `kill_on_exit`: the thread dies with the tracer (skeletons).
  // Throws Error (ESRCH: gone, EPERM: traced by another or protected).
  static Tracee seize(pid_t tid, bool kill_on_exit);
  // A new thread or process that a traced parent's clone made: already traced, about to stop.
  static Tracee adopt(pid_t tid);

  Tracee(Tracee&& other) noexcept;
  Tracee& operator=(Tracee&& other) noexcept;
  ~Tracee();  // gives the registers back and detaches; logs and goes on if that fails

  pid_t tid() const { return tid_.number; }
  bool stopped() const { return stopped_; }
  bool gone() const { return gone_; }  // it exited while we looked
  // SIGSTOP, SIGTSTP, SIGTTIN or SIGTTOU when the process was stopped by it before we came, else 0.
  int group_stop_signal() const { return group_stop_signal_; }

  void interrupt();  // PTRACE_INTERRUPT, does not wait
  // Until it is in a ptrace stop; captures registers; sets gone() on exit. `nap_us`: how long to
  // sleep at first when it is not, rather than look again and again.
  void wait_stopped(std::int64_t nap_us = 0);
  // The same without waiting: whether it is now, or gone.
  bool try_wait_stopped();
  void resume();  // goes on as if it had never been stopped
  void detach();  // the same, and lets go

  // The task's own state; only while stopped.
  const arch::Registers& registers() const;
  void set_registers(const arch::Registers& registers);
  // What the registers must become for the thread to go on elsewhere: system call restart resolved
  // (signal(7), "Interruption of system calls"), an rseq critical section aborted as the kernel
  // would. Sets `blocked_call` when the call keeps hidden state in the kernel
  // (ERESTART_RESTARTBLOCK).
  arch::Registers portable_registers(std::optional<arch::InterruptedCall>* blocked_call) const;

  // NT_X86_XSTATE / NT_PRFPREG, sized by the kernel; only what is in use is said to be.
  std::vector<std::byte> vector_state() const;
  // The same into `memory`, which has room for it; the part that it takes.
  std::span<const std::byte> vector_state(std::span<std::byte> memory) const;
  void set_vector_state(const std::vector<std::byte>& state);
  // Regset arch::further_notes() as the thread had it when it stopped; nothing where it has none.
  std::optional<std::vector<std::byte>> further_regset(int note) const;
  void set_further_regset(int note, std::span<const std::byte> content);
  std::uint64_t signal_mask() const;  // the task's own, also while a batch has replaced it
  void set_signal_mask(std::uint64_t mask);
  std::vector<siginfo_t> pending_signals(bool shared) const;  // PTRACE_PEEKSIGINFO, not consumed
  std::optional<RseqConfiguration> rseq() const;              // PTRACE_GET_RSEQ_CONFIGURATION
  // arch::resolve_restart() for this thread.
  bool interrupted_call(arch::Registers& registers, arch::InterruptedCall* interrupted) const;
  // How often the thread had gone to sleep when it stopped (proc_pid_status(5),
  // voluntary_ctxt_switches), where finding out its call has made it sleep again since.
  std::optional<std::uint64_t> switches_at_stop() const { return switches_at_stop_; }
  // Registers that were set go on with call `number`, where they do not say so themselves.
  void note_interrupted_call(std::int64_t number) { shown_call_ = number; }

 private:
  friend class RemoteTask;
  friend class BatchRunner;
  explicit Tracee(pid_t tid) : tid_(tid) {}

  // Moves away with the tracee, so that only one of them lets the thread go.
  struct Tid {
    explicit Tid(pid_t of) : number(of) {}
    Tid(Tid&& other) noexcept : number(std::exchange(other.number, -1)) {}
    pid_t number;
  };

  // One waitpid(2): true when the thread stopped or is gone. `status` is waitpid's.
  bool try_wait(int flags, int* status);
  // The same without waiting; a signal that the stop holds up stays in the thread.
  bool try_see_stop(int* status);
  void note_stop(int status);
  [[noreturn]] void throw_not_stopped() const;
  bool try_event_stop();
  void wait_event_stop(std::int64_t nap_us);  // wait_stopped() but for what comes last there
  // At a stop: makes the registers say which call the kernel would go on with
  // (arch::may_hide_restart).
  void show_interrupted_call();
  bool stands_before_call(const arch::Registers& registers) const;
  void restore_own_state();
  void read_own_state();
  // The thread leaves its stop; the signal whose delivery the stop interrupted goes on.
  void go(int signal);
  // Registers and mask become the task's own again; the thread stays stopped.
  void give_back();
  // Where it must go on when our code has run in between: the kernel aborts an rseq critical
  // section at every preemption, and would not see this one.
  void abort_rseq_section(arch::Registers& registers) const;
  void let_go() noexcept;

  Tid tid_;
  std::uint64_t options_ = 0;  // PTRACE_O_*
  bool stopped_ = false;
  bool gone_ = false;
  bool borrowed_ = false;     // the kernel's registers are not the task's own now
  bool own_changed_ = false;  // since they were written to the save area
  arch::Registers own_{};
  std::uint64_t own_mask_ = 0;
  bool mask_replaced_ = false;
  bool in_signal_stop_ = false;
  int stop_signal_ = 0;  // the signal that the stop holds up and that goes on with the thread
  int group_stop_signal_ = 0;
  int notify_signal_ = 0;         // the stub's, as long as the thread is lent to it
  std::int64_t shown_call_ = -1;  // what restart_syscall(2) goes on with, seen in this stop
  std::optional<std::uint64_t> switches_at_stop_;
  std::vector<siginfo_t> taken_signals_;  // met during a batch, queued again on the way out
  std::vector<std::pair<int, std::vector<std::byte>>> lost_regsets_;
};

}  // namespace godwit
