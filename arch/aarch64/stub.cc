// The stub's layout and entry points on aarch64; the code is in syscall_stub.S.
#include <asm/sigcontext.h>
#include <signal.h>
#include <ucontext.h>

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

// What the kernel reads back in rt_sigreturn (arch/arm64/kernel/signal.c): siginfo, ucontext, and
// in its reserved part a list of records, here the floating point one and the end.
struct Frame {
  std::byte info[128];
  std::uint64_t flags, link;
  stack_t stack;
  std::uint64_t mask;
  std::byte mask_rest[120];
  std::uint64_t pad;
  std::uint64_t fault_address;
  std::uint64_t registers[31];
  std::uint64_t sp, pc, pstate;
  alignas(16) std::uint32_t float_magic;
  std::uint32_t float_bytes;
  std::uint32_t float_status, float_control;
  std::byte vectors[32 * 16];
  std::uint32_t end_magic, end_bytes;
  std::uint64_t end_pad;
};
static_assert(offsetof(Frame, fault_address) == 128 + offsetof(ucontext_t, uc_mcontext));
static_assert(offsetof(Frame, mask) == 168 && offsetof(Frame, registers) == 312);
static_assert(offsetof(Frame, sp) == 560 && offsetof(Frame, pc) == 568);
static_assert(offsetof(Frame, pstate) == 576);
static_assert(offsetof(Frame, registers) - offsetof(Frame, fault_address) ==
              offsetof(sigcontext, regs));
static_assert(offsetof(Frame, float_magic) - offsetof(Frame, fault_address) ==
              offsetof(sigcontext, __reserved));

// As syscall_stub.S lays it out.
struct SaveArea {
  std::int32_t process, notify_signal, goes_on;
  alignas(16) Frame frame;
};
constexpr std::size_t kFrameBytes = 1152;
static_assert(sizeof(Frame) <= kFrameBytes && offsetof(SaveArea, frame) == 16);

// The regset NT_PRFPREG (struct user_fpsimd_state).
struct FloatRegset {
  std::byte vectors[32 * 16];
  std::uint32_t status, control;
};

constexpr std::uint64_t kConditionFlags = 0xf0000000;  // of pstate; the rest is the kernel's

Registers entry(const Registers& own, const std::byte* label, std::uint64_t stub) {
  Registers registers = own;
  registers.raw.pc = stub + static_cast<std::uint64_t>(label - godwit_stub_begin);
  registers.raw.pstate &= kConditionFlags;
  return registers;
}

}  // namespace

std::span<const std::byte> stub_code() { return {godwit_stub_begin, stub_save_offset()}; }

std::size_t stub_bytes() { return static_cast<std::size_t>(godwit_stub_end - godwit_stub_begin); }

std::size_t stub_save_offset() {
  return static_cast<std::size_t>(godwit_stub_save - godwit_stub_begin);
}

// The kernel has prepared a restart before it stops (see resolve_restart): registers go in as they
// are.
std::vector<std::byte> make_stub_save_area(const StubSaved& saved,
                                           std::span<const std::byte> vector_state) {
  SaveArea area{};
  area.process = saved.process;
  area.notify_signal = saved.notify_signal;
  area.goes_on = saved.goes_on ? 1 : 0;
  Frame& frame = area.frame;
  // rt_sigreturn sets the alternate stack from the frame, and goes on when it is refused: so it
  // must be, for the one in use to stay (sigaltstack(2): EINVAL for unknown flags).
  frame.stack.ss_flags = 0x100;
  frame.mask = saved.signal_mask;
  std::copy_n(saved.registers.raw.regs, 31, frame.registers);
  frame.sp = saved.registers.raw.sp;
  frame.pc = saved.registers.raw.pc;
  frame.pstate = saved.registers.raw.pstate;
  FloatRegset floats{};
  std::memcpy(&floats, vector_state.data(), std::min(vector_state.size(), sizeof floats));
  frame.float_magic = FPSIMD_MAGIC;
  frame.float_bytes = sizeof(fpsimd_context);
  frame.float_status = floats.status;
  frame.float_control = floats.control;
  std::copy_n(floats.vectors, sizeof frame.vectors, frame.vectors);
  const auto bytes = std::as_bytes(std::span(&area, 1));
  return {bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(offsetof(SaveArea, frame)) +
                             static_cast<std::ptrdiff_t>(sizeof(Frame))};
}

StubSaved read_stub_save_area(std::span<const std::byte> from, const Registers& current) {
  SaveArea area{};
  std::memcpy(static_cast<void*>(&area), from.data(), std::min(from.size(), sizeof area));
  StubSaved saved{current, area.frame.mask, area.process, area.notify_signal, area.goes_on != 0};
  std::copy_n(area.frame.registers, 31, saved.registers.raw.regs);
  saved.registers.raw.sp = area.frame.sp;
  saved.registers.raw.pc = area.frame.pc;
  saved.registers.raw.pstate = area.frame.pstate;
  return saved;
}

// It is told to the tail by its distance from the code alone.
std::size_t stub_save_areas_max() { return 1; }

bool tail_needs_vector_state() { return true; }

Registers enter_stub_rows(const Registers& own, std::uint64_t stub, std::uint64_t /*save_area*/,
                          std::uint64_t rows, std::uint64_t count) {
  Registers registers = entry(own, godwit_stub_rows, stub);
  registers.raw.regs[19] = rows;
  registers.raw.regs[20] = count;
  registers.raw.regs[21] = 0;
  registers.raw.regs[22] = rows;
  return registers;
}

Registers enter_stub_call(const Registers& own, std::uint64_t stub, std::uint64_t /*save_area*/,
                          std::int64_t number, std::span<const std::uint64_t> arguments) {
  std::array<std::uint64_t, 6> all{};
  std::copy_n(arguments.begin(), std::min(arguments.size(), all.size()), all.begin());
  Registers registers = entry(own, godwit_stub_call, stub);
  registers.raw.regs[8] = static_cast<std::uint64_t>(number);
  std::ranges::copy(all, registers.raw.regs);
  return registers;
}

bool stub_has_notified(const Registers& registers, std::uint64_t stub) {
  return registers.raw.pc ==
         stub + static_cast<std::uint64_t>(godwit_stub_notified - godwit_stub_begin);
}

std::uint64_t stub_progress(const Registers& registers) { return registers.raw.regs[21]; }

}  // namespace godwit::arch
