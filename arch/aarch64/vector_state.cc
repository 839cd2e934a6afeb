// The floating point and vector registers as ptrace gives them (struct user_fpsimd_state).
#include <elf.h>

#include "arch/arch.h"

namespace godwit::arch {

namespace {
constexpr std::size_t kFpsimdBytes = 528;
}

int vector_note_type() { return NT_PRFPREG; }
std::uint64_t vector_state_mask() { return 0; }
std::size_t vector_state_bytes() { return kFpsimdBytes; }
std::vector<VectorComponent> vector_components() { return {}; }
std::string vector_component_name(std::uint32_t) { return {}; }
std::optional<AskedState> asked_state() { return std::nullopt; }

void forget_unused_components(std::span<std::byte>) {}

std::vector<std::string> fit_vector_state(std::vector<std::byte>& state) {
  state.resize(kFpsimdBytes);
  return {};
}

}  // namespace godwit::arch
