// Calls that a stop interrupted and whose deadline only the kernel knows (ERESTART_RESTARTBLOCK,
// restart_syscall(2)), on processors where it has rewound them before it stops the thread.
//
// The kernel still remembers, as long as nobody moves the thread: when it goes on it makes
// restart_syscall of the call. So it goes on, up to the entry of the call (PTRACE_SYSCALL), and is
// interrupted in it at once. From then on its registers say what it will make. Nothing of that
// depends on us: when we die in the middle the thread just sleeps on. That takes
// PTRACE_O_TRACESYSGOOD: a thread whose tracer dies sends itself the signal that its stop at the
// entry was told with, and without the option that is SIGTRAP, which ends the process. With it, it
// is no signal at all.
#include <sched.h>
#include <sys/ptrace.h>

#include <algorithm>
#include <array>
#include <csignal>

#include "common/base/clock.h"
#include "common/base/error.h"
#include "common/kernel/proc_status.h"
#include "common/kernel/ptrace.h"
#include "common/remote/tracee.h"

namespace godwit {
namespace {

constexpr std::int64_t kEntryTimeoutNs = 20'000'000;  // longer: it is frozen, or gets no processor

}  // namespace

bool Tracee::stands_before_call(const arch::Registers& registers) const {
  const auto instruction = arch::call_instruction();
  std::array<std::byte, 8> word{};
  try {
    const std::uint64_t read = ptrace_peek(tid(), registers.instruction_pointer());
    std::ranges::copy(std::as_bytes(std::span(&read, 1)), word.begin());
  } catch (const Error&) {
    return false;  // it is to execute what is not there
  }
  return std::equal(instruction.begin(), instruction.end(), word.begin());
}

void Tracee::show_interrupted_call() {
  shown_call_ = -1;
  switches_at_stop_.reset();
  if (!arch::may_hide_restart(own_) || !stands_before_call(own_)) return;
  const std::int64_t number = arch::next_call(own_);
  if ((options_ & PTRACE_O_TRACESYSGOOD) == 0) {
    if (try_ptrace_set_options(tid(), options_ | PTRACE_O_TRACESYSGOOD) != 0) return;
    options_ |= PTRACE_O_TRACESYSGOOD;
  }
  // Now: how many more there will be depends on who else wants the processor.
  if (const auto status = try_read_proc_status(fmt::format("/proc/{}", tid()))) {
    switches_at_stop_ = status->voluntary_switches;
  }
  if (!try_ptrace_to_call(tid())) return;
  stopped_ = false;
  const std::int64_t start = monotonic_ns();
  int status = 0;
  while (!try_see_stop(&status) && monotonic_ns() - start < kEntryTimeoutNs) sched_yield();
  if (gone_ || (stopped_ && !in_signal_stop_)) {
    if (!gone_) read_own_state();
    return;
  }
  interrupt();
  if (stopped_) go(stop_signal_);
  wait_event_stop(0);
  arch::Registers registers = own_;
  if (!gone_ && arch::resolve_restart(registers, nullptr)) shown_call_ = number;
}

bool Tracee::interrupted_call(arch::Registers& registers,
                              arch::InterruptedCall* interrupted) const {
  if (!arch::resolve_restart(registers, interrupted)) return false;
  if (!arch::rewinds_before_stop()) return true;
  if (!stands_before_call(registers)) return false;
  if (shown_call_ < 0) return true;
  arch::set_next_call(registers, shown_call_);
  if (interrupted != nullptr) interrupted->number = shown_call_;
  return true;
}

}  // namespace godwit
