// The stub's layout and entry points on x86_64; the code is in syscall_stub.S.
#include <algorithm>
#include <array>
#include <cstring>

#include "arch/arch.h"

extern "C" {
extern const std::byte godwit_stub_begin[] __attribute__((visibility("hidden")));
extern const std::byte godwit_stub_rows[] __attribute__((visibility("hidden")));
extern const std::byte godwit_stub_call[] __attribute__((visibility("hidden")));
extern const std::byte godwit_stub_notified[] __attribute__((visibility("hidden")));
extern const std::byte godwit_stub_save[] __attribute__((visibility("hidden")));
extern const std::byte godwit_stub_end[] __attribute__((visibility("hidden")));
}

namespace godwit::arch {
namespace {

// As syscall_stub.S lays it out.
struct SaveArea {
  std::byte leave[16];  // code
  std::uint64_t r15, r14, r13, r12, rbp, rbx, r11, r10, r9, r8, rax, rcx, rdx, rsi, rdi;
  std::uint64_t rip, flags, rsp;
  std::uint64_t mask;
  std::int32_t process, notify_signal;
};
static_assert(sizeof(SaveArea) == 22 * 8 && offsetof(SaveArea, r15) == 16);

constexpr std::uint64_t kNoCall = ~std::uint64_t{0};
constexpr std::uint64_t kPlainFlags = 0x202;  // interrupts on; no direction, trap, alignment check
constexpr std::uint64_t kTrapFlag = 0x100;

// The tail cannot hand a -ERESTART value back to the kernel as a tracer can, so it makes the call
// again itself; restart_syscall(2) still finds the deadline of an interrupted sleep.
void resolve_for_tail(user_regs_struct& raw) {
  constexpr int kRestartSys = 512, kRestartNoIntr = 513, kRestartNoHand = 514, kRestartBlock = 516;
  constexpr std::uint64_t kRestartSyscall = 219;
  constexpr std::uint64_t kSyscallInstructionBytes = 2;
  if (static_cast<std::int64_t>(raw.orig_rax) < 0) return;
  switch (-static_cast<std::int64_t>(raw.rax)) {
    case kRestartSys:
    case kRestartNoIntr:
    case kRestartNoHand:
      raw.rax = raw.orig_rax;
      raw.rip -= kSyscallInstructionBytes;
      break;
    case kRestartBlock:
      raw.rax = kRestartSyscall;
      raw.rip -= kSyscallInstructionBytes;
      break;
    default:
      break;
  }
}

Registers entry(const Registers& own, const std::byte* label, std::uint64_t stub,
                std::uint64_t save_area) {
  Registers registers = own;
  registers.raw.rip = stub + static_cast<std::uint64_t>(label - godwit_stub_begin);
  registers.raw.r15 = save_area;
  registers.raw.orig_rax = kNoCall;
  registers.raw.eflags = kPlainFlags;
  return registers;
}

}  // namespace

std::span<const std::byte> stub_code() { return {godwit_stub_begin, stub_save_offset()}; }

std::size_t stub_bytes() { return static_cast<std::size_t>(godwit_stub_end - godwit_stub_begin); }

std::size_t stub_save_offset() {
  return static_cast<std::size_t>(godwit_stub_save - godwit_stub_begin);
}

std::vector<std::byte> make_stub_save_area(const StubSaved& saved, std::span<const std::byte>) {
  user_regs_struct raw = saved.registers.raw;
  resolve_for_tail(raw);
  SaveArea area{{},
                raw.r15,
                raw.r14,
                raw.r13,
                raw.r12,
                raw.rbp,
                raw.rbx,
                raw.r11,
                raw.r10,
                raw.r9,
                raw.r8,
                raw.rax,
                raw.rcx,
                raw.rdx,
                raw.rsi,
                raw.rdi,
                raw.rip,
                raw.eflags & ~kTrapFlag,
                raw.rsp,
                saved.signal_mask,
                saved.process,
                saved.notify_signal};
  std::memcpy(area.leave, godwit_stub_save, sizeof area.leave);
  const auto bytes = std::as_bytes(std::span(&area, 1));
  return {bytes.begin(), bytes.end()};
}

StubSaved read_stub_save_area(std::span<const std::byte> from, const Registers& current) {
  SaveArea area{};
  std::memcpy(&area, from.data(), std::min(from.size(), sizeof area));
  StubSaved saved{current, area.mask, area.process, area.notify_signal, false};
  user_regs_struct& raw = saved.registers.raw;
  raw.r15 = area.r15, raw.r14 = area.r14, raw.r13 = area.r13, raw.r12 = area.r12;
  raw.rbp = area.rbp, raw.rbx = area.rbx, raw.r11 = area.r11, raw.r10 = area.r10;
  raw.r9 = area.r9, raw.r8 = area.r8, raw.rax = area.rax, raw.rcx = area.rcx;
  raw.rdx = area.rdx, raw.rsi = area.rsi, raw.rdi = area.rdi;
  raw.rip = area.rip, raw.eflags = area.flags, raw.rsp = area.rsp;
  raw.orig_rax = kNoCall;
  return saved;
}

std::size_t stub_save_areas_max() { return 8; }

bool tail_needs_vector_state() { return false; }

Registers enter_stub_rows(const Registers& own, std::uint64_t stub, std::uint64_t save_area,
                          std::uint64_t rows, std::uint64_t count) {
  Registers registers = entry(own, godwit_stub_rows, stub, save_area);
  registers.raw.rbx = rows;
  registers.raw.rbp = rows;
  registers.raw.r12 = count;
  registers.raw.r13 = 0;
  return registers;
}

Registers enter_stub_call(const Registers& own, std::uint64_t stub, std::uint64_t save_area,
                          std::int64_t number, std::span<const std::uint64_t> arguments) {
  std::array<std::uint64_t, 6> all{};
  std::copy_n(arguments.begin(), std::min(arguments.size(), all.size()), all.begin());
  Registers registers = entry(own, godwit_stub_call, stub, save_area);
  registers.raw.rax = static_cast<std::uint64_t>(number);
  registers.raw.rdi = all[0];
  registers.raw.rsi = all[1];
  registers.raw.rdx = all[2];
  registers.raw.r10 = all[3];
  registers.raw.r8 = all[4];
  registers.raw.r9 = all[5];
  return registers;
}

bool stub_has_notified(const Registers& registers, std::uint64_t stub) {
  return registers.raw.rip ==
         stub + static_cast<std::uint64_t>(godwit_stub_notified - godwit_stub_begin);
}

std::uint64_t stub_progress(const Registers& registers) { return registers.raw.r13; }

}  // namespace godwit::arch
