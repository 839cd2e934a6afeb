// What registers of a stop say about the call that they are about to make (restart_syscall(2)).
#include <gtest/gtest.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>

#include "arch/arch.h"

namespace godwit::arch {
namespace {

Registers before(std::int64_t number, std::uint64_t second = 0, std::uint64_t fourth = 0) {
  Registers registers;
  registers.raw.pc = 0x1000;
  registers.raw.regs[0] = 1;
  registers.raw.regs[1] = second;
  registers.raw.regs[3] = fourth;
  registers.raw.regs[8] = static_cast<std::uint64_t>(number);
  return registers;
}

TEST(Restart, MayBeHiddenWhereADeadlineIs) {
  EXPECT_TRUE(may_hide_restart(before(SYS_nanosleep)));
  EXPECT_TRUE(may_hide_restart(before(SYS_clock_nanosleep)));
  EXPECT_FALSE(may_hide_restart(before(SYS_clock_nanosleep, TIMER_ABSTIME)));
  EXPECT_TRUE(may_hide_restart(before(SYS_futex, FUTEX_WAIT_PRIVATE, 0x2000)));
  EXPECT_FALSE(may_hide_restart(before(SYS_futex, FUTEX_WAIT_PRIVATE, 0)));
  EXPECT_FALSE(may_hide_restart(before(SYS_futex, FUTEX_WAIT_BITSET_PRIVATE, 0x2000)));
  EXPECT_FALSE(may_hide_restart(before(SYS_read)));
  EXPECT_FALSE(may_hide_restart(before(SYS_restart_syscall)));
}

TEST(Restart, IsKeptAndToldByItsNumber) {
  Registers registers = before(SYS_nanosleep, 7);
  EXPECT_FALSE(resolve_restart(registers, nullptr));
  keep_restart(registers);
  InterruptedCall call;
  EXPECT_TRUE(resolve_restart(registers, &call));
  EXPECT_EQ(call.number, SYS_restart_syscall);
  EXPECT_EQ(call.arguments[0], 1u);
  EXPECT_EQ(call.arguments[1], 7u);
  EXPECT_EQ(call.return_address, 0x1004u);
  EXPECT_EQ(registers.instruction_pointer(), 0x1000u);
  set_next_call(registers, SYS_nanosleep);
  EXPECT_EQ(next_call(registers), SYS_nanosleep);
}

}  // namespace
}  // namespace godwit::arch
