// Changing a call that registers are about to make (syscall(2)).
#include <array>

#include "arch/arch.h"

namespace godwit::arch {

std::int64_t next_call(const Registers& registers) {
  return static_cast<std::int64_t>(registers.raw.rax);
}

void set_next_call(Registers& registers, std::int64_t number) {
  registers.raw.rax = static_cast<std::uint64_t>(number);
}

void set_argument(Registers& registers, int index, std::uint64_t value) {
  using Member = decltype(&user_regs_struct::rdi);
  constexpr std::array<Member, 6> kMembers = {&user_regs_struct::rdi, &user_regs_struct::rsi,
                                              &user_regs_struct::rdx, &user_regs_struct::r10,
                                              &user_regs_struct::r8,  &user_regs_struct::r9};
  registers.raw.*kMembers.at(static_cast<std::size_t>(index)) = value;
}

std::span<const std::byte> call_instruction() {
  static constexpr std::array<std::byte, 2> kSyscall = {std::byte{0x0f}, std::byte{0x05}};
  return kSyscall;
}

}  // namespace godwit::arch
