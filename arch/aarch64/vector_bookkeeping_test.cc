// The header of NT_ARM_SVE (Documentation/arch/arm64/sve.rst).
#include <asm/ptrace.h>
#include <elf.h>
#include <gtest/gtest.h>

#include <array>
#include <cstring>

#include "arch/arch.h"

namespace godwit::arch {
namespace {

std::array<std::byte, 64> content_of(const user_sve_header& header) {
  std::array<std::byte, 64> content;
  content.fill(std::byte{7});
  std::memcpy(content.data(), &header, sizeof(header));
  return content;
}

TEST(Bookkeeping, LengthsThatAreOfTheProcessorDoNotDiffer) {
  auto one = content_of({.size = 64, .max_size = 564, .vl = 32, .max_vl = 32, .flags = 1});
  auto other = content_of({.size = 64, .max_size = 1112, .vl = 32, .max_vl = 64, .flags = 1});
  clear_bookkeeping(NT_PRFPREG, other);
  EXPECT_NE(one, other);
  clear_bookkeeping(NT_ARM_SVE, one);
  clear_bookkeeping(NT_ARM_SVE, other);
  EXPECT_EQ(one, other);
  EXPECT_EQ(one, content_of({.size = 64, .vl = 32, .flags = 1}));
}

TEST(Bookkeeping, ALengthInUseDoesAndAShortContentIsLeft) {
  auto one = content_of({.size = 64, .vl = 16, .flags = 1});
  auto other = content_of({.size = 64, .vl = 32, .flags = 1});
  clear_bookkeeping(NT_ARM_SVE, one);
  clear_bookkeeping(NT_ARM_SVE, other);
  EXPECT_NE(one, other);
  const auto before = one;
  clear_bookkeeping(NT_ARM_SVE, std::span(one).first(sizeof(user_sve_header) - 1));
  EXPECT_EQ(one, before);
}

}  // namespace
}  // namespace godwit::arch
