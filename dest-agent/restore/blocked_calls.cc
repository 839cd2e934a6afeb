#include "dest-agent/restore/blocked_calls.h"

#include <linux/futex.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>

#include <algorithm>
#include <csignal>
#include <limits>

#include "common/base/error.h"
#include "common/base/log.h"
#include "common/kernel/ptrace.h"

namespace godwit {
namespace {

constexpr std::int64_t kRestartBlock = -516;  // ERESTART_RESTARTBLOCK of the kernel
constexpr std::int64_t kNsPerMs = 1'000'000;

// Where a call has its relative timeout.
struct Timeout {
  Address in_memory = 0;  // a timespec
  int in_argument = -1;   // milliseconds
  Address rest = 0;       // where the kernel writes what was left
};

std::optional<Timeout> timeout_of(const proto::BlockedCall& call) {
  if (call.arguments_size() != 6) return std::nullopt;
  switch (call.number()) {
    case SYS_nanosleep:
      return Timeout{.in_memory = call.arguments(0), .rest = call.arguments(1)};
    case SYS_clock_nanosleep:
      if ((call.arguments(1) & TIMER_ABSTIME) != 0) return std::nullopt;
      return Timeout{.in_memory = call.arguments(2), .rest = call.arguments(3)};
    case SYS_futex:
      if ((call.arguments(1) & FUTEX_CMD_MASK) != FUTEX_WAIT) return std::nullopt;
      return Timeout{.in_memory = call.arguments(3)};
#ifdef SYS_poll
    case SYS_poll:
      return Timeout{.in_argument = 2};
#endif
    default:
      return std::nullopt;
  }
}

timespec to_timespec(std::int64_t ns) { return {ns / 1'000'000'000, ns % 1'000'000'000}; }

std::span<const std::byte> bytes_of(const timespec& time) {
  return std::as_bytes(std::span(&time, 1));
}

// Waits for a ptrace stop; the wait status.
int wait_for_stop(pid_t tid) {
  int status = 0;
  pid_t got = 0;
  do {
    got = ::waitpid(tid, &status, __WALL);
  } while (got < 0 && errno == EINTR);
  if (got < 0) throw_system("wait for thread {}", tid);
  if (!WIFSTOPPED(status)) fail("thread {} ended while its call was being restored", tid);
  return status;
}

bool is_event_stop(int status) { return status >> 16 == PTRACE_EVENT_STOP; }

// To the next entry or exit of a system call, or an event.
int go_to_call_border(pid_t tid) {
  if (::ptrace(PTRACE_SYSCALL, tid, 0, 0) != 0) throw_system("PTRACE_SYSCALL of thread {}", tid);
  return wait_for_stop(tid);
}

struct MadeCall {
  arch::Registers registers;  // of a thread stopped in it or right behind it
  bool goes_on = false;
};

// Lets the stopped thread make the call that `registers` are about to make, and interrupts it.
MadeCall make_interrupted_call(pid_t tid, const arch::Registers& registers) {
  const std::uint64_t mask =
      ptrace_signal_mask(tid);  // RemoteTask's at the moment, or the thread's
  ptrace_set_signal_mask(tid, ~std::uint64_t{0});
  ptrace_set_registers(tid, registers);
  if (is_event_stop(go_to_call_border(tid))) {
    fail("thread {} stopped before the call it slept in", tid);
  }
  if (::ptrace(PTRACE_SYSCALL, tid, 0, 0) != 0) throw_system("PTRACE_SYSCALL of thread {}", tid);
  if (!try_ptrace_interrupt(tid)) fail("thread {} is gone", tid);
  int status = wait_for_stop(tid);
  const bool goes_on = ptrace_registers(tid).result() == kRestartBlock;
  // A stop forgets the interruption that led to it, and with it the kernel would not look whether
  // the call is to go on: one more, whose stop is the last place before it does.
  if (!is_event_stop(status) && !try_ptrace_interrupt(tid)) fail("thread {} is gone", tid);
  while (!is_event_stop(status)) {
    if (!try_ptrace_continue(tid, 0)) fail("thread {} is gone", tid);
    status = wait_for_stop(tid);
  }
  ptrace_set_signal_mask(tid, mask);
  arch::Registers after = ptrace_registers(tid);
  if (goes_on) arch::keep_restart(after);
  return {after, goes_on};
}

}  // namespace

bool needs_resumed_call(const proto::Thread& want) {
  if (!want.has_blocked_call() || want.blocked_call().remaining_ns() < 0) return false;
  const auto timeout = timeout_of(want.blocked_call());
  return timeout && (timeout->in_memory == 0 || timeout->in_memory != timeout->rest);
}

bool resume_blocked_call(RemoteTask& task, Tracee& tracee, const proto::Thread& want,
                         std::int64_t elapsed_ns) {
  if (!needs_resumed_call(want)) return false;
  const Timeout timeout = *timeout_of(want.blocked_call());
  const std::int64_t left =
      std::max<std::int64_t>(want.blocked_call().remaining_ns() - elapsed_ns, 0);
  arch::Registers registers = tracee.registers();
  std::vector<std::byte> instruction(arch::call_instruction().size());
  task.read_memory(registers.instruction_pointer(), instruction);
  if (!std::equal(instruction.begin(), instruction.end(), arch::call_instruction().begin())) {
    log_warning("thread={} is not about to make the call it slept in", want.tid());
    return false;
  }
  std::optional<timespec> original;
  if (timeout.in_memory != 0) {
    original = task.read_value<timespec>(timeout.in_memory);
    try {
      task.write_memory(timeout.in_memory, bytes_of(to_timespec(left)));
    } catch (const Error& error) {
      log_warning("thread={} sleeps anew with its whole time: {}", want.tid(), error.what());
      return false;
    }
  } else {
    const std::int64_t ms = (left + kNsPerMs - 1) / kNsPerMs;
    arch::set_argument(registers, timeout.in_argument,
                       static_cast<std::uint32_t>(
                           std::min<std::int64_t>(ms, std::numeric_limits<std::int32_t>::max())));
  }
  auto [after, goes_on] = make_interrupted_call(tracee.tid(), registers);
  if (original) task.write_memory(timeout.in_memory, bytes_of(*original));
  if (timeout.in_argument >= 0) {
    arch::set_argument(after, timeout.in_argument,
                       want.blocked_call().arguments(timeout.in_argument));
  }
  log_debug("thread={} call={} left_ns={} {}", want.tid(), want.blocked_call().number(), left,
            goes_on ? "goes on" : "has ended");
  tracee.set_registers(after);
  if (goes_on) tracee.note_interrupted_call(want.blocked_call().number());
  return true;
}

}  // namespace godwit
