// Changing a call that registers are about to make (syscall(2)).
#include <array>

#include "arch/arch.h"

namespace godwit::arch {

std::int64_t next_call(const Registers& registers) {
  return static_cast<std::int32_t>(registers.raw.regs[8]);
}

void set_next_call(Registers& registers, std::int64_t number) {
  registers.raw.regs[8] = static_cast<std::uint64_t>(number);
}

void set_argument(Registers& registers, int index, std::uint64_t value) {
  registers.raw.regs[index] = value;
}

std::span<const std::byte> call_instruction() {
  // svc #0
  static constexpr std::array<std::byte, 4> kSvc = {std::byte{0x01}, std::byte{0x00},
                                                    std::byte{0x00}, std::byte{0xd4}};
  return kSvc;
}

}  // namespace godwit::arch
