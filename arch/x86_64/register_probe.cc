#include "arch/register_probe.h"

#include <cstddef>

namespace godwit::arch {

// As register_probe.S counts.
static_assert(offsetof(RegisterProbe, put) == 64);
static_assert(offsetof(RegisterProbe, masks_put) == 64 + 2 * 2048);
static_assert(offsetof(RegisterProbe, general_found) == 64 + 2 * 2048 + 128);
static_assert(offsetof(RegisterProbe, flags_found) == 64 + 2 * 2048 + 128 + 128);
static_assert(offsetof(RegisterProbe, control_found) == 64 + 2 * 2048 + 128 + 128 + 8 + 128 + 4);

std::uint64_t probed_flags() { return 0x8d5; }

std::size_t probed_vector_bytes() { return __builtin_cpu_supports("avx512bw") ? 64 : 16; }

}  // namespace godwit::arch
