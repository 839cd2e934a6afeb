#include "common/kernel/ptrace.h"

#include <elf.h>
// The kernel's header after glibc's: glibc has no rseq request.
#include <sys/ptrace.h>
#include <sys/uio.h>

#include <array>

#include "common/base/error.h"

namespace godwit {
namespace {

constexpr int kGetRseqConfiguration = 0x420f;
constexpr std::size_t kSignalSetBytes = 8;

struct RseqConfigurationAbi {
  std::uint64_t address;
  std::uint32_t bytes;
  std::uint32_t signature;
  std::uint32_t flags;
  std::uint32_t pad;
};

long request(int what, pid_t tid, std::uint64_t address, const void* data) {
  return ptrace(static_cast<__ptrace_request>(what), tid, reinterpret_cast<void*>(address),
                const_cast<void*>(data));
}

long request(int what, pid_t tid, std::uint64_t address, std::uint64_t data) {
  return request(what, tid, address, reinterpret_cast<const void*>(data));
}

bool try_request(int what, const char* name, pid_t tid, std::uint64_t data) {
  if (request(what, tid, 0, data) == 0) return true;
  if (errno == ESRCH) return false;
  throw_system("{} of thread {}", name, tid);
}

}  // namespace

int try_ptrace_seize(pid_t tid, std::uint64_t options) {
  return request(PTRACE_SEIZE, tid, 0, options) == 0 ? 0 : errno;
}

bool try_ptrace_interrupt(pid_t tid) {
  return try_request(PTRACE_INTERRUPT, "PTRACE_INTERRUPT", tid, 0);
}

bool try_ptrace_continue(pid_t tid, int signal) {
  return try_request(PTRACE_CONT, "PTRACE_CONT", tid, static_cast<std::uint64_t>(signal));
}

bool try_ptrace_to_call(pid_t tid) { return try_request(PTRACE_SYSCALL, "PTRACE_SYSCALL", tid, 0); }

bool try_ptrace_detach(pid_t tid, int signal) {
  return try_request(PTRACE_DETACH, "PTRACE_DETACH", tid, static_cast<std::uint64_t>(signal));
}

bool try_ptrace_single_step(pid_t tid, int signal) {
  return try_request(PTRACE_SINGLESTEP, "PTRACE_SINGLESTEP", tid,
                     static_cast<std::uint64_t>(signal));
}

int try_ptrace_set_options(pid_t tid, std::uint64_t options) {
  return request(PTRACE_SETOPTIONS, tid, 0, options) == 0 ? 0 : errno;
}

arch::Registers ptrace_registers(pid_t tid) {
  arch::Registers registers;
  iovec io{&registers.raw, sizeof registers.raw};
  if (request(PTRACE_GETREGSET, tid, NT_PRSTATUS, &io) != 0) {
    throw_system("PTRACE_GETREGSET of thread {}", tid);
  }
  if (io.iov_len != sizeof registers.raw) fail("thread {} runs code of another word size", tid);
  return registers;
}

void ptrace_set_registers(pid_t tid, const arch::Registers& registers) {
  iovec io{const_cast<user_regs_struct*>(&registers.raw), sizeof registers.raw};
  if (request(PTRACE_SETREGSET, tid, NT_PRSTATUS, &io) != 0) {
    throw_system("PTRACE_SETREGSET of thread {}", tid);
  }
}

std::optional<std::vector<std::byte>> ptrace_regset(pid_t tid, int note, std::size_t bytes_max) {
  std::vector<std::byte> content(bytes_max);
  const auto bytes = ptrace_regset(tid, note, content);
  if (!bytes) return std::nullopt;
  content.resize(*bytes);
  return content;
}

std::optional<std::size_t> ptrace_regset(pid_t tid, int note, std::span<std::byte> to) {
  iovec io{to.data(), to.size()};
  if (request(PTRACE_GETREGSET, tid, static_cast<std::uint64_t>(note), &io) != 0) {
    if (errno == EINVAL || errno == ENODEV) return std::nullopt;
    throw_system("PTRACE_GETREGSET {:#x} of thread {}", note, tid);
  }
  return io.iov_len;
}

void ptrace_set_regset(pid_t tid, int note, std::span<const std::byte> content) {
  iovec io{const_cast<std::byte*>(content.data()), content.size()};
  if (request(PTRACE_SETREGSET, tid, static_cast<std::uint64_t>(note), &io) != 0) {
    throw_system("PTRACE_SETREGSET {:#x} ({} bytes) of thread {}", note, content.size(), tid);
  }
}

std::uint64_t ptrace_signal_mask(pid_t tid) {
  std::uint64_t mask = 0;
  if (request(PTRACE_GETSIGMASK, tid, kSignalSetBytes, &mask) != 0) {
    throw_system("PTRACE_GETSIGMASK of thread {}", tid);
  }
  return mask;
}

void ptrace_set_signal_mask(pid_t tid, std::uint64_t mask) {
  if (request(PTRACE_SETSIGMASK, tid, kSignalSetBytes, &mask) != 0) {
    throw_system("PTRACE_SETSIGMASK of thread {}", tid);
  }
}

std::optional<siginfo_t> ptrace_signal_info(pid_t tid) {
  siginfo_t info{};
  if (request(PTRACE_GETSIGINFO, tid, 0, &info) == 0) return info;
  if (errno == EINVAL) return std::nullopt;
  throw_system("PTRACE_GETSIGINFO of thread {}", tid);
}

void ptrace_set_signal_info(pid_t tid, const siginfo_t& info) {
  if (request(PTRACE_SETSIGINFO, tid, 0, &info) != 0) {
    throw_system("PTRACE_SETSIGINFO of thread {}", tid);
  }
}

std::vector<siginfo_t> ptrace_queued_signals(pid_t tid, bool shared) {
  std::vector<siginfo_t> all;
  std::array<siginfo_t, 32> some{};
  for (;;) {
    // Flag bit 0 is PTRACE_PEEKSIGINFO_SHARED.
    __ptrace_peeksiginfo_args wanted{all.size(), shared ? 1u : 0u,
                                     static_cast<std::int32_t>(some.size())};
    const long got = ptrace(PTRACE_PEEKSIGINFO, tid, &wanted, some.data());
    if (got < 0) throw_system("PTRACE_PEEKSIGINFO of thread {}", tid);
    all.insert(all.end(), some.begin(), some.begin() + got);
    if (got < static_cast<long>(some.size())) return all;
  }
}

std::uint64_t ptrace_event_message(pid_t tid) {
  unsigned long message = 0;
  if (request(PTRACE_GETEVENTMSG, tid, 0, &message) != 0) {
    throw_system("PTRACE_GETEVENTMSG of thread {}", tid);
  }
  return message;
}

std::uint64_t ptrace_peek(pid_t tid, std::uint64_t address) {
  errno = 0;
  const long word = ptrace(PTRACE_PEEKDATA, tid, reinterpret_cast<void*>(address), nullptr);
  if (errno != 0) throw_system("PTRACE_PEEKDATA of thread {} at {:#x}", tid, address);
  return static_cast<std::uint64_t>(word);
}

std::optional<RseqArea> ptrace_rseq(pid_t tid) {
  RseqConfigurationAbi found{};
  if (request(kGetRseqConfiguration, tid, sizeof found, &found) < 0) {
    if (errno == EIO || errno == EINVAL) return std::nullopt;  // a kernel without it
    throw_system("PTRACE_GET_RSEQ_CONFIGURATION of thread {}", tid);
  }
  if (found.address == 0) return std::nullopt;
  return RseqArea{found.address, found.bytes, found.signature, found.flags};
}

}  // namespace godwit
