// The extended register state (Intel SDM 13: XSAVE) as ptrace gives it: a legacy area of 512 bytes,
// a header that says which components are in use, and the components where CPUID leaf 0xd has them.
#include <cpuid.h>
#include <elf.h>
#include <sys/syscall.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "arch/arch.h"

namespace godwit::arch {
namespace {

constexpr std::size_t kLegacyBytes = 512;
constexpr std::size_t kHeaderEnd = 576;
constexpr std::size_t kOwnersMask = 464;  // vector_state_mask() of the host that it comes from
constexpr std::size_t kInUse = 512;
constexpr std::uint64_t kLegacyComponents = 3;  // x87 and SSE
constexpr std::uint32_t kFirstExtended = 2;
constexpr std::uint32_t kProtectionKeys = 9;
constexpr unsigned kXsaveLeaf = 0xd;
constexpr unsigned kCanBeSwitchedOff = 1 << 2;
constexpr std::uint64_t kGetPermittedState = 0x1022;  // ARCH_GET_XCOMP_PERM of arch_prctl(2)

constexpr std::array<const char*, 20> kNames = {
    "x87",           "SSE",      "AVX",          "MPX bounds",    "MPX configuration",
    "AVX-512 masks", "ZMM high", "ZMM 16 to 31", "trace",         "protection keys",
    "PASID",         "CET",      "CET of rings", "duty cycle",    "user interrupts",
    "last branches", "HWP",      "AMX tiles",    "AMX tile data", "APX"};

std::uint64_t enabled_components() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (__get_cpuid(1, &a, &b, &c, &d) == 0 || (c & bit_OSXSAVE) == 0) return 0;
  std::uint32_t low = 0, high = 0;
  asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return static_cast<std::uint64_t>(high) << 32 | low;
}

std::uint64_t bit(std::uint32_t number) { return std::uint64_t{1} << number; }

VectorComponent component(std::uint32_t number) {
  VectorComponent found{number, 0, 0};
  unsigned c = 0, d = 0;
  __get_cpuid_count(kXsaveLeaf, number, &found.bytes, &found.offset, &c, &d);
  return found;
}

// It can be switched off for each task (Intel SDM 13.14, XFD).
bool has_to_be_asked_for(std::uint32_t number) {
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid_count(kXsaveLeaf, number, &a, &b, &c, &d) != 0 && (c & kCanBeSwitchedOff) != 0;
}

std::uint64_t load(std::span<const std::byte> state, std::size_t at) {
  std::uint64_t value = 0;
  std::memcpy(&value, state.data() + at, sizeof(value));
  return value;
}

void store(std::span<std::byte> state, std::size_t at, std::uint64_t value) {
  std::memcpy(state.data() + at, &value, sizeof(value));
}

// As this thread has them: no program of ours changes what the kernel begins with.
std::uint64_t first_protection_keys() {
  std::uint32_t keys = 0, high = 0;
  asm volatile("rdpkru" : "=a"(keys), "=d"(high) : "c"(0));
  return keys;
}

}  // namespace

// A processor or kernel without XSAVE has the legacy area only.
int vector_note_type() { return vector_state_mask() != 0 ? NT_X86_XSTATE : NT_PRFPREG; }

// Asked once, here and below: a hypervisor may take its time to answer.
std::uint64_t vector_state_mask() {
  static const std::uint64_t mask = enabled_components();
  return mask;
}

std::size_t vector_state_bytes() {
  static const std::size_t bytes = [] {
    unsigned a = 0, b = 0, c = 0, d = 0;
    if (vector_state_mask() == 0 || __get_cpuid_count(kXsaveLeaf, 0, &a, &b, &c, &d) == 0) {
      return kLegacyBytes;
    }
    return std::size_t{b};  // for what is enabled
  }();
  return bytes;
}

std::vector<VectorComponent> vector_components() {
  std::vector<VectorComponent> components;
  for (std::uint32_t number = kFirstExtended; number < 63; ++number) {
    if ((vector_state_mask() & bit(number)) != 0) components.push_back(component(number));
  }
  return components;
}

std::optional<AskedState> asked_state() {
  static const std::uint64_t components = [] {
    std::uint64_t asked = 0;
    for (const VectorComponent& each : vector_components()) {
      if (has_to_be_asked_for(each.number)) asked |= bit(each.number);
    }
    return asked;
  }();
  if (components == 0) return std::nullopt;
  return AskedState{SYS_arch_prctl, kGetPermittedState, components};
}

std::string vector_component_name(std::uint32_t number) {
  return number < kNames.size() ? kNames[number] : "component " + std::to_string(number);
}

// The first values are zeros (Intel SDM 13.6), but for protection keys, which Linux sets.
void forget_unused_components(std::span<std::byte> state) {
  static const std::vector<VectorComponent> components = vector_components();
  if (state.size() < kHeaderEnd) return;
  const std::uint64_t told = load(state, kInUse);
  std::uint64_t used = told;
  for (const auto& [number, offset, bytes] : components) {
    if ((used & bit(number)) == 0 || number == kProtectionKeys) continue;
    if (offset + bytes > state.size()) continue;
    const auto content = state.subspan(offset, bytes);
    const bool is_zero = std::all_of(content.begin(), content.end(),
                                     [](std::byte byte) { return byte == std::byte{0}; });
    if (is_zero) used &= ~bit(number);
  }
  if (used != told) store(state, kInUse, used);
}

std::vector<std::string> fit_vector_state(std::vector<std::byte>& state) {
  const bool extended = state.size() >= kHeaderEnd;
  const std::uint64_t theirs = extended ? load(state, kOwnersMask) : kLegacyComponents;
  std::uint64_t used = extended ? load(state, kInUse) : kLegacyComponents;
  const std::uint64_t ours = vector_state_mask();
  std::vector<std::string> lost;
  // Linux gives every task some protection keys: that they are in use says nothing.
  const std::uint64_t lacking = used & ~(ours | kLegacyComponents | bit(kProtectionKeys));
  for (std::uint32_t number = 0; lacking >> number != 0; ++number) {
    if ((lacking & bit(number)) != 0) lost.push_back(vector_component_name(number));
  }
  state.resize(vector_state_bytes());
  if (ours == 0) return lost;
  if ((ours & ~theirs & bit(kProtectionKeys)) != 0) {
    store(state, component(kProtectionKeys).offset, first_protection_keys());
    used |= bit(kProtectionKeys);
  }
  store(state, kOwnersMask, ours);
  store(state, kInUse, used & ours);
  return lost;
}

}  // namespace godwit::arch
