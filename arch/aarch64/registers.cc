// General registers and facts of aarch64 (syscall(2), ptrace(2), arch/arm64/kernel/signal.c).
#include <elf.h>

#include <array>

#include "arch/arch.h"

namespace godwit::arch {

namespace {

constexpr std::uint64_t kPstate32Bit = 0x10;

// A system call leaves of SVE only what FPSIMD has (Documentation/arch/arm64/sve.rst).
constexpr std::array<int, 1> kLostByCalls = {NT_ARM_SVE};

// SVE after NT_PRFPREG, which sets the lowest 128 bits of the same registers. The keys sign the return
// addresses that stand in the task's memory.
constexpr std::array kFurther = {NT_ARM_TLS,       NT_ARM_SVE,
                                 NT_ARM_PACA_KEYS, NT_ARM_PACG_KEYS,
                                 NT_ARM_PAC_ENABLED_KEYS, NT_ARM_TAGGED_ADDR_CTRL};

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
// registers are already those that make it again from its beginning, and what it was cannot be seen
// from them.
bool resolve_restart(Registers&, InterruptedCall*) { return false; }

std::string_view name() { return "aarch64"; }

bool runs_native_code(const Registers& registers) {
  return (registers.raw.pstate & kPstate32Bit) == 0;
}

std::span<const int> notes_lost_by_calls() { return kLostByCalls; }
std::span<const int> further_notes() { return kFurther; }

}  // namespace godwit::arch
