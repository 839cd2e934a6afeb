// The XSAVE image as ptrace gives it (Intel SDM 13.4): the kernel fills components that are not in
// use with their initial values, so only the header says that they are not.
#include <elf.h>

#include <algorithm>

#include "arch/arch.h"

namespace godwit::arch {

void clear_bookkeeping(int note, std::span<std::byte> state) {
  constexpr std::size_t kSoftwareReserved = 464;
  constexpr std::size_t kEndOfInUseMask = 520;
  if (note != NT_X86_XSTATE || state.size() < kEndOfInUseMask) return;
  std::fill(state.begin() + kSoftwareReserved, state.begin() + kEndOfInUseMask, std::byte{0});
}

}  // namespace godwit::arch
