#include "arch/register_probe.h"

#include <cstddef>

namespace godwit::arch {

// As register_probe.S counts.
static_assert(offsetof(RegisterProbe, put) == 64);
static_assert(offsetof(RegisterProbe, found) == 64 + 2048);
static_assert(offsetof(RegisterProbe, general_found) == 64 + 2 * 2048 + 128);
static_assert(offsetof(RegisterProbe, flags_found) == 64 + 2 * 2048 + 128 + 128);
static_assert(offsetof(RegisterProbe, control_put) == 64 + 2 * 2048 + 128 + 128 + 8 + 128);

std::uint64_t probed_flags() { return 0xf0000000; }

std::size_t probed_vector_bytes() { return 16; }

}  // namespace godwit::arch
