// What is written over the functions of another kernel's vDSO.
#include <sys/syscall.h>

#include <array>
#include <cstring>
#include <utility>

#include "arch/arch.h"

namespace godwit::arch {
namespace {

constexpr std::array<std::pair<std::string_view, std::uint32_t>, 4> kCalls{{
    {"__kernel_clock_gettime", SYS_clock_gettime},
    {"__kernel_gettimeofday", SYS_gettimeofday},
    {"__kernel_clock_getres", SYS_clock_getres},
    {"__kernel_getrandom", SYS_getrandom},
}};

std::vector<std::byte> words(std::initializer_list<std::uint32_t> instructions) {
  std::vector<std::byte> code(instructions.size() * 4);
  std::memcpy(code.data(), instructions.begin(), code.size());
  return code;
}

}  // namespace

std::vector<std::byte> jump_code(std::uint64_t target) {
  // ldr x16, .+8; br x16. x16 is free at a call (procedure call standard, IP0).
  return words({0x58000050, 0xd61f0200, static_cast<std::uint32_t>(target),
                static_cast<std::uint32_t>(target >> 32)});
}

std::vector<std::byte> vdso_call_code(std::string_view function) {
  for (const auto& [name, number] : kCalls) {
    // movz x8, #number; svc #0; ret
    if (name == function) return words({0xd2800008 | number << 5, 0xd4000001, 0xd65f03c0});
  }
  // Of rt_sigreturn the caller's frame knows the place; it is a call as well.
  if (function == "__kernel_rt_sigreturn") {
    return words({0xd2800008 | std::uint32_t{SYS_rt_sigreturn} << 5, 0xd4000001});
  }
  return {};
}

}  // namespace godwit::arch
