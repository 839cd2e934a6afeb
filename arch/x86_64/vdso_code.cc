// What is written over the functions of another kernel's vDSO.
#include <sys/syscall.h>

#include <array>
#include <cstring>
#include <utility>

#include "arch/arch.h"

namespace godwit::arch {
namespace {

constexpr std::array<std::pair<std::string_view, std::uint32_t>, 6> kCalls{{
    {"clock_gettime", SYS_clock_gettime},
    {"gettimeofday", SYS_gettimeofday},
    {"time", SYS_time},
    {"clock_getres", SYS_clock_getres},
    {"getcpu", SYS_getcpu},
    {"getrandom", 318},
}};

}  // namespace

std::vector<std::byte> jump_code(std::uint64_t target) {
  // jmp *0(%rip): one instruction, so that no thread is ever found in the middle.
  std::vector<std::byte> code(14);
  code[0] = std::byte{0xff};
  code[1] = std::byte{0x25};
  std::memcpy(code.data() + 6, &target, sizeof(target));
  return code;
}

std::vector<std::byte> vdso_call_code(std::string_view function) {
  if (function.starts_with("__vdso_")) function.remove_prefix(7);
  // An enclave is entered through a device that no process is moved with.
  std::int32_t unknown = -38;  // -ENOSYS
  for (const auto& [name, number] : kCalls) {
    if (name != function) continue;
    // mov $number, %eax; syscall; ret. The arguments are where the call has them.
    std::vector<std::byte> code{std::byte{0xb8}, {}, {}, {}, {}, std::byte{0x0f}, std::byte{0x05},
                                std::byte{0xc3}};
    std::memcpy(code.data() + 1, &number, sizeof(number));
    return code;
  }
  if (function != "sgx_enter_enclave") return {};
  std::vector<std::byte> code{std::byte{0xb8}, {}, {}, {}, {}, std::byte{0xc3}};
  std::memcpy(code.data() + 1, &unknown, sizeof(unknown));
  return code;
}

}  // namespace godwit::arch
