// For tests: a thread that has something in every register that there is, and says what has
// changed.
#pragma once

#include <cstddef>
#include <cstdint>

namespace godwit::arch {

struct RegisterProbe {
  volatile std::uint32_t go_on;  // the thread spins, touching no register, until this is 0
  std::uint32_t wide;  // use the widest vector registers: the processor and the kernel can
  alignas(64) std::byte put[32 * 64];
  alignas(64) std::byte found[32 * 64];
  std::uint64_t masks_put[8], masks_found[8];
  std::uint64_t general_found[16];
  std::uint64_t flags_found;
  std::byte old_float_found[8 * 16];  // x87
  std::uint32_t control_put, control_found;
};

// Fills the registers, spins, reads them back. `general_found[i]` must be kGeneralPattern + i.
inline constexpr std::uint64_t kGeneralPattern = 0x1122334455667700;
inline constexpr std::size_t kGeneralProbed = 12;
extern "C" void godwit_probe_registers(RegisterProbe* probe);
// The arithmetic flags that the probe sets, all of them.
std::uint64_t probed_flags();
// How many bytes of each vector register the probe uses on this processor.
std::size_t probed_vector_bytes();

// Spins inside an rseq critical section of the calling thread's area until *go_on is 0, counting
// the kernel's aborts.
extern "C" void godwit_probe_rseq(void* area, volatile std::uint32_t* go_on,
                                  volatile std::uint64_t* aborts);

}  // namespace godwit::arch
