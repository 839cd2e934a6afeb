#include "common/image/block_codec.h"

#include <gtest/gtest.h>

#include "common/base/error.h"
#include "common/image/image_fixture.h"

namespace godwit {
namespace {

std::vector<std::byte> block_of(unsigned pages, unsigned salt) {
  std::vector<std::byte> block;
  for (unsigned i = 0; i < pages; ++i) {
    const std::string text = page_text(i, salt);
    const auto bytes = std::as_bytes(std::span(text));
    block.insert(block.end(), bytes.begin(), bytes.end());
  }
  return block;
}

TEST(BlockCodec, PacksAndUnpacks) {
  BlockCodec codec;
  for (const Codec wanted : {Codec::kNone, Codec::kLz4, Codec::kZstd}) {
    const auto raw = block_of(kBlockPagesMax, 1);
    std::vector<std::byte> stored(kBlockBytesMax);
    const auto [bytes, used] = codec.encode(wanted, raw, stored);
    EXPECT_EQ(used, wanted);
    EXPECT_EQ(bytes < raw.size() / 4, wanted != Codec::kNone);
    std::vector<std::byte> back(raw.size());
    codec.decode(used, std::span(stored).first(bytes), back);
    EXPECT_EQ(back, raw);
  }
}

TEST(BlockCodec, LeavesAsItIsWhatDoesNotPack) {
  BlockCodec codec;
  const auto raw = block_of(3, 0);
  std::vector<std::byte> stored(raw.size());
  for (const Codec wanted : {Codec::kLz4, Codec::kZstd}) {
    const auto [bytes, used] = codec.encode(wanted, raw, stored);
    EXPECT_EQ(used, Codec::kNone);
    EXPECT_EQ(bytes, raw.size());
    EXPECT_EQ(stored, raw);
  }
}

TEST(BlockCodec, RefusesWhatDoesNotUnpackToItsSize) {
  BlockCodec codec;
  const auto raw = block_of(4, 1);
  std::vector<std::byte> stored(raw.size());
  std::vector<std::byte> back(raw.size());
  std::vector<std::byte> larger(raw.size() + kPageSize);
  for (const Codec wanted : {Codec::kLz4, Codec::kZstd}) {
    const std::size_t bytes = codec.encode(wanted, raw, stored).first;
    EXPECT_THROW(codec.decode(wanted, std::span(stored).first(bytes - 1), back), Error);
    EXPECT_THROW(codec.decode(wanted, std::span(stored).first(bytes), larger), Error);
    EXPECT_THROW(
        codec.decode(wanted, std::span(stored).first(bytes), std::span(back).first(kPageSize)),
        Error);
  }
  EXPECT_THROW(codec.decode(Codec::kNone, raw, larger), Error);
}

}  // namespace
}  // namespace godwit
