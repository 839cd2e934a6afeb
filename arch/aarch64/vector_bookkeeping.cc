// NT_ARM_SVE begins with what the kernel says of the registers (struct user_sve_header), among it
// how long they may become on this processor; NT_PRFPREG holds registers and nothing else.
#include <asm/ptrace.h>
#include <elf.h>

#include <cstring>

#include "arch/arch.h"

namespace godwit::arch {

void clear_bookkeeping(int note, std::span<std::byte> content) {
  user_sve_header header{};
  if (note != NT_ARM_SVE || content.size() < sizeof(header)) return;
  std::memcpy(&header, content.data(), sizeof(header));
  header.max_size = 0;
  header.max_vl = 0;
  std::memcpy(content.data(), &header, sizeof(header));
}

}  // namespace godwit::arch
