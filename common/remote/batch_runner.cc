#include "common/remote/batch_runner.h"

#include <fmt/format.h>
#include <sched.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <csignal>
#include <exception>
#include <utility>

#include "common/base/clock.h"
#include "common/base/error.h"
#include "common/kernel/proc_status.h"
#include "common/kernel/ptrace.h"
#include "common/remote/code_site.h"

namespace godwit {
namespace {

constexpr std::size_t kRegsetBytesMax = 64 << 10;
constexpr std::int64_t kSpinNs = 50'000;

std::uint64_t signal_bit(int signal) { return std::uint64_t{1} << (signal - 1); }

bool is_fault(const siginfo_t& info) {
  const bool number = info.si_signo == SIGSEGV || info.si_signo == SIGBUS ||
                      info.si_signo == SIGILL || info.si_signo == SIGFPE ||
                      info.si_signo == SIGTRAP || info.si_signo == SIGSYS;
  return number && info.si_code > 0;
}

}  // namespace

void BatchRunner::set_code(Address code) {
  code_ = code;
  owner_ = 0;
}

void BatchRunner::forget_signals() {
  caught_known_ = false;
  owner_ = 0;
}

pid_t BatchRunner::inner_pid() {
  if (inner_pid_ == 0) inner_pid_ = read_proc_status(pid_).inner_pid();
  return inner_pid_;
}

int BatchRunner::choose_notify_signal(const Tracee& thread) {
  if (!caught_known_) {
    caught_ = read_proc_status(pid_).signals_caught;
    caught_known_ = true;
  }
  // All of them are ignored by default. A blocked one may be waited for (sigwait(3), signalfd(2)).
  constexpr int kCandidates[] = {SIGURG, SIGWINCH, SIGCHLD, SIGCONT};
  for (const std::uint64_t avoided : {caught_ | thread.own_mask_, caught_}) {
    for (const int signal : kCandidates) {
      if ((avoided & signal_bit(signal)) == 0) return signal;
    }
  }
  return SIGURG;
}

void BatchRunner::suspend_seccomp(Tracee& thread) {
  constexpr std::uint64_t kSuspend = PTRACE_O_SUSPEND_SECCOMP;
  if (can_suspend_seccomp_) {
    const int code = try_ptrace_set_options(thread.tid(), thread.options_ | kSuspend);
    if (code == 0) {
      thread.options_ |= kSuspend;
      return;
    }
    can_suspend_seccomp_ = false;
  }
  const std::string directory = fmt::format("/proc/{}/task/{}", pid_, thread.tid());
  if (read_proc_status(directory).seccomp_mode != 0) {
    throw Error(fmt::format("thread {} is under seccomp, which cannot be suspended", thread.tid()),
                EPERM, "run the agent with CAP_SYS_ADMIN and without a seccomp filter of its own");
  }
}

void BatchRunner::write_save_area(Tracee& thread, std::size_t area) {
  std::vector<std::byte> vector_state;
  if (arch::tail_needs_vector_state()) vector_state = thread.vector_state();
  arch::Registers next = thread.own_;
  const bool goes_on = thread.interrupted_call(next, nullptr);
  const arch::StubSaved saved{thread.own_, thread.own_mask_, inner_pid(), thread.notify_signal_,
                              goes_on};
  memory_.write(save_area(code_, area), arch::make_stub_save_area(saved, vector_state));
  thread.own_changed_ = false;
  if (area == 0) owner_ = thread.tid();
}

void BatchRunner::borrow(Tracee& thread, std::size_t area) {
  if (!thread.stopped())
    fail("thread {} of process {} runs: no call can be made in it", thread.tid(), pid_);
  const bool fresh = !thread.borrowed_;
  if (!fresh && area == 0 && owner_ == thread.tid() && !thread.own_changed_) return;
  if (!arch::runs_native_code(thread.own_)) {
    fail("thread {} of process {} runs code of another instruction set than {}", thread.tid(), pid_,
         arch::name());
  }
  if (fresh) {
    if (thread.own_.system_call() < 0) thread.abort_rseq_section(thread.own_);
    thread.lost_regsets_.clear();
    for (const int note : arch::notes_lost_by_calls()) {
      auto content = ptrace_regset(thread.tid(), note, kRegsetBytesMax);
      if (content) thread.lost_regsets_.emplace_back(note, std::move(*content));
    }
  }
  thread.notify_signal_ = choose_notify_signal(thread);
  write_save_area(thread, area);
  thread.mask_replaced_ = thread.mask_replaced_ && !fresh;
  suspend_seccomp(thread);
}

// The signal whose delivery the stop held up. Blocked now, it is queued again by the kernel with
// all that belongs to it; the two that cannot be blocked wait with us.
int BatchRunner::start_signal(Tracee& thread) {
  const int signal = thread.stop_signal_;
  if (signal == 0 || (signal != thread.notify_signal_ && signal != SIGSTOP)) return signal;
  if (const auto info = ptrace_signal_info(thread.tid())) thread.taken_signals_.push_back(*info);
  return 0;
}

bool BatchRunner::handle_stop(Tracee& thread, int status, arch::Registers& registers) {
  const int event = status >> 16;
  if (event == PTRACE_EVENT_CLONE || event == PTRACE_EVENT_FORK || event == PTRACE_EVENT_VFORK) {
    born_.push_back(static_cast<pid_t>(ptrace_event_message(thread.tid())));
  }
  if (event != 0) {  // also a group stop, which the kernel takes up again when we let go
    thread.go(0);
    return false;
  }
  registers = ptrace_registers(thread.tid());
  const auto info = ptrace_signal_info(thread.tid());
  if (!info) fail("thread {} of process {} stopped without a signal", thread.tid(), pid_);
  // When the user's signals have used up RLIMIT_SIGPENDING, ours comes without saying whose it is.
  const bool nameless = info->si_code == SI_USER && info->si_pid == 0 && info->si_uid == 0;
  const bool own = nameless || (info->si_code == SI_TKILL && info->si_pid == inner_pid());
  const bool notified =
      WSTOPSIG(status) == thread.notify_signal_ && arch::stub_has_notified(registers, code_);
  if (is_fault(*info)) {
    thread.stop_signal_ = 0;  // of our code: the program never gets it
    fail("the code in process {} met signal {} (code {}) at {:#x}, address {:#x}", pid_,
         info->si_signo, info->si_code, registers.instruction_pointer(),
         reinterpret_cast<std::uintptr_t>(info->si_addr));
  }
  // A signal of that number by somebody else stands for ours too: only one can be queued.
  if (!notified || !own) thread.taken_signals_.push_back(*info);
  thread.stop_signal_ = 0;
  if (!notified) thread.go(0);
  return notified;
}

// Most batches take some microseconds; going to sleep and being woken takes longer.
void BatchRunner::wait_for_stop(Tracee& thread, int* status) {
  if (thread.gone()) return;
  const std::int64_t start = monotonic_ns();
  while (monotonic_ns() - start < kSpinNs) {
    if (thread.try_wait(WNOHANG, status)) return;
    sched_yield();
  }
  thread.try_wait(0, status);
}

void BatchRunner::start(Tracee& thread, const arch::Registers& entry) {
  const int signal = start_signal(thread);
  ptrace_set_registers(thread.tid(), entry);
  thread.borrowed_ = true;
  if (!thread.mask_replaced_) {
    ptrace_set_signal_mask(thread.tid(), ~signal_bit(thread.notify_signal_));
    thread.mask_replaced_ = true;
  }
  thread.go(signal);
}

arch::Registers BatchRunner::finish(Tracee& thread) {
  arch::Registers registers;
  for (bool notified = false; !notified;) {
    int status = 0;
    wait_for_stop(thread, &status);
    if (thread.gone()) {
      throw Error(fmt::format("thread {} of process {} ended during a batch", thread.tid(), pid_),
                  ESRCH);
    }
    notified = handle_stop(thread, status, registers);
  }
  return registers;
}

arch::Registers BatchRunner::run(Tracee& thread, const arch::Registers& entry,
                                 const std::function<void()>& meanwhile) {
  start(thread, entry);
  std::exception_ptr failure;
  try {
    if (meanwhile) meanwhile();
  } catch (...) {
    failure = std::current_exception();
  }
  const arch::Registers registers = finish(thread);
  if (failure) std::rethrow_exception(failure);
  return registers;
}

std::int64_t BatchRunner::call(Tracee& thread, long number,
                               std::initializer_list<std::uint64_t> arguments) {
  borrow(thread);
  const arch::Registers entry =
      arch::enter_stub_call(thread.own_, code_, save_area(code_, 0), number,
                            std::span(arguments.begin(), arguments.size()));
  return static_cast<std::int64_t>(arch::stub_progress(run(thread, entry)));
}

std::uint64_t BatchRunner::walk(Tracee& thread, Address rows, std::uint64_t count) {
  borrow(thread);
  const auto meanwhile = std::exchange(meanwhile_, nullptr);
  const arch::Registers entry =
      arch::enter_stub_rows(thread.own_, code_, save_area(code_, 0), rows, count);
  return arch::stub_progress(run(thread, entry, meanwhile));
}

void BatchRunner::begin_walk(Tracee& thread, std::size_t area, Address rows, std::uint64_t count) {
  borrow(thread, area);
  start(thread, arch::enter_stub_rows(thread.own_, code_, save_area(code_, area), rows, count));
}

std::uint64_t BatchRunner::end_walk(Tracee& thread) { return arch::stub_progress(finish(thread)); }

void BatchRunner::end(Tracee& thread) {
  borrow(thread);
  const std::uint64_t no_arguments[] = {0};
  const arch::Registers entry =
      arch::enter_stub_call(thread.own_, code_, save_area(code_, 0), SYS_exit, no_arguments);
  try {
    run(thread, entry);
  } catch (const Error&) {
    if (thread.gone()) return;
    throw;
  }
  fail("thread {} of process {} did not end", thread.tid(), pid_);
}

}  // namespace godwit
