#include <gtest/gtest.h>
#include <sys/syscall.h>

#include <cerrno>
#include <cstring>
#include <string>

#include "arch/arch.h"
#include "common/model/describe.h"

namespace godwit {
namespace {

constexpr std::uint64_t kCode = 0x7f0000001000;

std::string bytes_of(const arch::Registers& registers) {
  return {reinterpret_cast<const char*>(&registers.raw), sizeof registers.raw};
}

proto::Process process_with(const arch::Registers& registers) {
  proto::Process process;
  proto::Thread& thread = *process.add_threads();
  thread.set_tid(7);
  thread.set_general_registers(bytes_of(registers));
  return process;
}

arch::Registers before_call(long number) {
  arch::Registers registers;
  registers.set_instruction_pointer(kCode);
  arch::set_next_call(registers, number);
  arch::set_argument(registers, 0, 0x5000);
  return registers;
}

// Whichever register the processor has for it.
void set_result(arch::Registers& registers, std::int64_t result) {
  constexpr std::int64_t kMark = 0x6d61726b;
  for (std::size_t at = 0; at + sizeof result <= sizeof registers.raw; at += sizeof result) {
    arch::Registers tried = registers;
    std::memcpy(reinterpret_cast<char*>(&tried.raw) + at, &kMark, sizeof kMark);
    if (tried.result() != kMark) continue;
    std::memcpy(reinterpret_cast<char*>(&registers.raw) + at, &result, sizeof result);
    return;
  }
  FAIL() << "no register holds results";
}

// As the kernel leaves them.
arch::Registers behind_call(arch::Registers registers, std::int64_t result) {
  registers.set_instruction_pointer(kCode + arch::call_instruction().size());
  set_result(registers, result);
  return registers;
}

TEST(CompareProcesses, ASleepMayEndBeforeItIsLookedAt) {
  const arch::Registers sleeps = before_call(SYS_nanosleep);
  const proto::Process expected = process_with(sleeps);
  EXPECT_TRUE(compare_processes(expected, process_with(sleeps)).empty());
  EXPECT_TRUE(compare_processes(expected, process_with(behind_call(sleeps, 0))).empty());
  const arch::Registers waits = before_call(SYS_futex);
  EXPECT_TRUE(
      compare_processes(process_with(waits), process_with(behind_call(waits, -ETIMEDOUT))).empty());
}

TEST(CompareProcesses, AnythingElseIsADifference) {
  const arch::Registers sleeps = before_call(SYS_nanosleep);
  const proto::Process expected = process_with(sleeps);
  EXPECT_EQ(compare_processes(expected, process_with(behind_call(sleeps, -EINTR))).size(), 1u);
  arch::Registers elsewhere = behind_call(sleeps, 0);
  elsewhere.set_stack_pointer(0x1234);
  EXPECT_EQ(compare_processes(expected, process_with(elsewhere)).size(), 1u);
  const arch::Registers reads = before_call(SYS_read);
  EXPECT_EQ(compare_processes(process_with(reads), process_with(behind_call(reads, 0))).size(), 1u);
}

}  // namespace
}  // namespace godwit
