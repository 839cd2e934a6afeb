// General registers and facts of x86_64 (syscall(2), ptrace(2), arch/x86/kernel/signal.c's rules
// for restarting calls as signal(7) describes them).
#include "arch/arch.h"

namespace godwit::arch {
namespace {

constexpr std::uint64_t kSyscallInstructionBytes = 2;
constexpr std::uint64_t kNoCall = ~std::uint64_t{0};
constexpr std::uint64_t kUserCodeSegment64 = 0x33;

// Not in the userspace headers (linux/errno.h of the kernel).
enum RestartCode : std::int64_t {
  kRestartSys = 512,
  kRestartNoIntr = 513,
  kRestartNoHand = 514,
  kRestartBlock = 516,
};

}  // namespace

std::uint64_t Registers::instruction_pointer() const { return raw.rip; }
std::uint64_t Registers::stack_pointer() const { return raw.rsp; }
void Registers::set_instruction_pointer(std::uint64_t address) { raw.rip = address; }
void Registers::set_stack_pointer(std::uint64_t address) { raw.rsp = address; }

std::int64_t Registers::system_call() const {
  const auto number = static_cast<std::int64_t>(raw.orig_rax);
  return number < 0 ? -1 : number;
}

std::uint64_t Registers::argument(int index) const {
  switch (index) {
    case 0:
      return raw.rdi;
    case 1:
      return raw.rsi;
    case 2:
      return raw.rdx;
    case 3:
      return raw.r10;
    case 4:
      return raw.r8;
    default:
      return raw.r9;
  }
}

std::int64_t Registers::result() const { return static_cast<std::int64_t>(raw.rax); }

bool resolve_restart(Registers& registers, InterruptedCall* interrupted) {
  if (registers.system_call() < 0) return false;
  bool hidden_state = false;
  switch (-registers.result()) {
    case kRestartBlock:
      hidden_state = true;
      if (interrupted != nullptr) {
        interrupted->number = registers.system_call();
        for (int i = 0; i < 6; ++i) interrupted->arguments[i] = registers.argument(i);
        interrupted->return_address = registers.raw.rip;
      }
      [[fallthrough]];
    case kRestartSys:
    case kRestartNoIntr:
    case kRestartNoHand:
      registers.raw.rax = registers.raw.orig_rax;
      registers.raw.rip -= kSyscallInstructionBytes;
      break;
    default:
      break;
  }
  registers.raw.orig_rax = kNoCall;
  return hidden_state;
}

bool rewinds_before_stop() { return false; }
bool may_hide_restart(const Registers&) { return false; }
void keep_restart(Registers&) {}  // its result says so

std::string_view name() { return "x86_64"; }

bool runs_native_code(const Registers& registers) { return registers.raw.cs == kUserCodeSegment64; }

std::span<const int> notes_lost_by_calls() { return {}; }

// The base of TLS is one of the general registers, and the rest is in the XSAVE image.
std::span<const int> further_notes() { return {}; }

}  // namespace godwit::arch
