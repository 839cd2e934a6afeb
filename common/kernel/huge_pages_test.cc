#include "common/kernel/huge_pages.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>

#include "common/kernel/pidfd.h"

namespace godwit {
namespace {

TEST(HugePages, AreMadeOfWhatIsThere) {
  const std::uint64_t bytes = huge_page_bytes();
  if (bytes == 0) return;  // such kernels have none to move either
  const UniqueFd self = open_pidfd(::getpid());
  const std::size_t length = 4 * bytes;
  void* memory =
      ::mmap(nullptr, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(memory, MAP_FAILED);
  std::memset(memory, 7, length);
  const auto start = reinterpret_cast<Address>(memory);
  const PageRange ranges[] = {{start, start + length}};
  EXPECT_EQ(collapse_huge_pages(self.get(), ranges, [] { return false; }), 0U);
  const std::size_t collapsed = collapse_huge_pages(self.get(), ranges, [] { return true; });
  EXPECT_GE(collapsed, 3U);
  EXPECT_LE(collapsed, 4U);
  for (std::size_t at = 0; at < length; at += 4096) {
    ASSERT_EQ(static_cast<unsigned char*>(memory)[at], 7);
  }
  // What is not there any more is passed over.
  ::munmap(memory, length);
  EXPECT_EQ(collapse_huge_pages(self.get(), ranges, [] { return true; }), 0U);
}

}  // namespace
}  // namespace godwit
