#include "common/image/write_ring.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>

#include <gtest/gtest.h>

#include "common/base/error.h"
#include "common/base/unique_fd.h"

namespace godwit {
namespace {

TEST(WriteRing, WritesManyBlocksInAnyOrder) {
  WriteRing ring;
  const UniqueFd file(memfd_create("blocks", MFD_CLOEXEC));
  constexpr unsigned kBlocks = 50;
  for (unsigned i = 0; i < kBlocks; ++i) {
    const auto room = ring.room();
    std::fill(room.begin(), room.end(), static_cast<std::byte>(i));
    ring.write(file.get(), (kBlocks - 1 - i) * kBlockBytesMax, kBlockBytesMax);
  }
  ring.drain();
  for (unsigned i = 0; i < kBlocks; ++i) {
    std::byte last{};
    ASSERT_EQ(pread(file.get(), &last, 1, static_cast<off_t>((i + 1) * kBlockBytesMax - 1)), 1);
    EXPECT_EQ(last, static_cast<std::byte>(kBlocks - 1 - i));
  }
}

TEST(WriteRing, TellsWhyAWriteFailed) {
  WriteRing ring;
  const UniqueFd full = open_file("/dev/full", O_WRONLY);
  ring.room();
  try {
    ring.write(full.get(), 0, kBlockAlignment);
    ring.drain();
    FAIL() << "a full disk went unnoticed";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ENOSPC);
  }
}

}  // namespace
}  // namespace godwit
