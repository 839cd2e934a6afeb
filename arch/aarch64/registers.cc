// General registers and facts of aarch64 (syscall(2), ptrace(2), arch/arm64/kernel/signal.c).
#include <elf.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>

#include <algorithm>
#include <array>

#include "arch/arch.h"

namespace godwit::arch {

namespace {

constexpr std::uint64_t kPstate32Bit = 0x10;
constexpr std::uint64_t kCallInstructionBytes = 4;

// A system call leaves of SVE only what FPSIMD has (Documentation/arch/arm64/sve.rst).
constexpr std::array<int, 1> kLostByCalls = {NT_ARM_SVE};

// SVE after NT_PRFPREG, which sets the lowest 128 bits of the same registers. The keys sign the
// return addresses that stand in the task's memory.
constexpr std::array kFurther = {NT_ARM_TLS,
                                 NT_ARM_SVE,
                                 NT_ARM_PACA_KEYS,
                                 NT_ARM_PACG_KEYS,
                                 NT_ARM_PAC_ENABLED_KEYS,
                                 NT_ARM_TAGGED_ADDR_CTRL};

}  // namespace

std::uint64_t Registers::instruction_pointer() const { return raw.pc; }
std::uint64_t Registers::stack_pointer() const { return raw.sp; }
void Registers::set_instruction_pointer(std::uint64_t address) { raw.pc = address; }
void Registers::set_stack_pointer(std::uint64_t address) { raw.sp = address; }

// The kernel forgets the number before it stops a thread on its way out of a call, and x8 holds one
// also when the thread is in no call: not known.
std::int64_t Registers::system_call() const { return -1; }
std::uint64_t Registers::argument(int index) const { return raw.regs[index]; }
std::int64_t Registers::result() const { return static_cast<std::int64_t>(raw.regs[0]); }

// This kernel rewinds to the call before it stops the thread, for every kind of restart: the
// registers are those that make it again from its beginning, and only one that has been interrupted
// and gone on before is told by its number.
bool resolve_restart(Registers& registers, InterruptedCall* interrupted) {
  if (next_call(registers) != SYS_restart_syscall) return false;
  if (interrupted != nullptr) {
    interrupted->number = SYS_restart_syscall;
    std::copy_n(registers.raw.regs, 6, interrupted->arguments);
    interrupted->return_address = registers.raw.pc + kCallInstructionBytes;
  }
  return true;
}

bool rewinds_before_stop() { return true; }

// Of poll(2) this processor has only ppoll(2), which begins again with what is left.
bool may_hide_restart(const Registers& registers) {
  switch (next_call(registers)) {
    case SYS_nanosleep:
      return true;
    case SYS_clock_nanosleep:
      return (registers.argument(1) & TIMER_ABSTIME) == 0;
    case SYS_futex:
      return (registers.argument(1) & FUTEX_CMD_MASK) == FUTEX_WAIT && registers.argument(3) != 0;
    default:
      return false;
  }
}

void keep_restart(Registers& registers) { set_next_call(registers, SYS_restart_syscall); }

std::string_view name() { return "aarch64"; }

bool runs_native_code(const Registers& registers) {
  return (registers.raw.pstate & kPstate32Bit) == 0;
}

std::span<const int> notes_lost_by_calls() { return kLostByCalls; }
std::span<const int> further_notes() { return kFurther; }

}  // namespace godwit::arch
