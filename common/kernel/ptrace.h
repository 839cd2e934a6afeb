// ptrace(2) requests that Godwit uses, one thin function each, on a thread that is stopped unless
// said otherwise. `tid` is the number in the caller's pid namespace. Every request has to come from
// the thread that seized. They throw Error naming request and thread; try_ twins answer false where
// the thread is gone (ESRCH).
#pragma once

#include <signal.h>
#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "arch/arch.h"

namespace godwit {

// PTRACE_SEIZE: the thread runs on. Returns 0 or the errno: ESRCH is a thread that is gone, EPERM
// one that is exiting, traced by another, or protected.
int try_ptrace_seize(pid_t tid, std::uint64_t options);
bool try_ptrace_interrupt(pid_t tid);  // of a running thread
bool try_ptrace_continue(pid_t tid, int signal);
// PTRACE_SYSCALL: until it enters or leaves a call, or stops before.
bool try_ptrace_to_call(pid_t tid);
bool try_ptrace_detach(pid_t tid, int signal);
bool try_ptrace_single_step(pid_t tid, int signal);
// Returns 0 or the errno.
int try_ptrace_set_options(pid_t tid, std::uint64_t options);

arch::Registers ptrace_registers(pid_t tid);
void ptrace_set_registers(pid_t tid, const arch::Registers& registers);
// PTRACE_GETREGSET for a note of any size; nothing where the thread has no such regset.
std::optional<std::vector<std::byte>> ptrace_regset(pid_t tid, int note, std::size_t bytes_max);
// The same into memory that is there already; its size.
std::optional<std::size_t> ptrace_regset(pid_t tid, int note, std::span<std::byte> to);
void ptrace_set_regset(pid_t tid, int note, std::span<const std::byte> content);

std::uint64_t ptrace_signal_mask(pid_t tid);
void ptrace_set_signal_mask(pid_t tid, std::uint64_t mask);
// Of the signal-delivery-stop that the thread is in; nothing in a group stop.
std::optional<siginfo_t> ptrace_signal_info(pid_t tid);
void ptrace_set_signal_info(pid_t tid, const siginfo_t& info);
// PTRACE_PEEKSIGINFO: queued signals in their order, of the thread or of its process.
std::vector<siginfo_t> ptrace_queued_signals(pid_t tid, bool shared);
std::uint64_t ptrace_event_message(pid_t tid);
std::uint64_t ptrace_peek(pid_t tid, std::uint64_t address);

struct RseqArea {
  std::uint64_t address = 0;
  std::uint32_t bytes = 0;
  std::uint32_t signature = 0;
  std::uint32_t flags = 0;
};
// PTRACE_GET_RSEQ_CONFIGURATION (Linux 5.13); nothing where none is registered.
std::optional<RseqArea> ptrace_rseq(pid_t tid);

}  // namespace godwit
