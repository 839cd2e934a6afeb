// NT_PRFPREG holds registers and nothing else.
#include "arch/arch.h"

namespace godwit::arch {

void clear_vector_bookkeeping(std::span<std::byte>) {}

}  // namespace godwit::arch
