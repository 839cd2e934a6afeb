#include "common/image/page_index.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

#include "common/base/error.h"

namespace godwit {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr const char* kId = "0123456789abcdef";
constexpr Address kBase = 0x5000'0000'0000;

PageRange pages(std::uint64_t first, std::uint64_t count) {
  return {kBase + first * kPageSize, kBase + (first + count) * kPageSize};
}

std::uint32_t add_block(PageIndexBuilder& builder, std::uint16_t count, std::uint64_t* end) {
  const ImageBlock block{*end, static_cast<std::uint32_t>(count * kPageSize), count};
  *end += block_span(block.stored_bytes);
  return builder.add_block(block);
}

std::string story_of(const std::string& body) {
  try {
    PageIndex::parse(body, "dir/index");
    return {};
  } catch (const Error& error) {
    return error.what();
  }
}

TEST(PageIndex, TheLastWordOnAPageCounts) {
  PageIndexBuilder builder;
  std::uint64_t end = kBlockAlignment;
  const auto first = add_block(builder, 10, &end);
  builder.put(0, {pages(0, 10), RunKind::kData, first, 0});
  const auto second = add_block(builder, 2, &end);
  builder.put(0, {pages(4, 2), RunKind::kData, second, 0});
  builder.put(0, {pages(9, 3), RunKind::kZero});
  const PageIndex index = PageIndex::parse(builder.serialize(kId, end), "i");
  EXPECT_EQ(index.id(), kId);
  EXPECT_THAT(std::vector(index.runs(0).begin(), index.runs(0).end()),
              ElementsAre(ImageRun{pages(0, 4), RunKind::kData, first, 0},
                          ImageRun{pages(4, 2), RunKind::kData, second, 0},
                          ImageRun{pages(6, 3), RunKind::kData, first, 6},
                          ImageRun{pages(9, 3), RunKind::kZero, 0, 0}));
  EXPECT_EQ(builder.count(RunKind::kData), 9U);
  EXPECT_EQ(index.find(0, kBase + 7 * kPageSize + 5)->first, 6U);
  EXPECT_EQ(index.find(0, kBase + 12 * kPageSize), nullptr);
  EXPECT_EQ(index.find(0, kBase - 1), nullptr);
  EXPECT_EQ(index.find(1, kBase), nullptr);
}

TEST(PageIndex, ForgetsWhatIsInNoArea) {
  PageIndexBuilder builder;
  std::uint64_t end = kBlockAlignment;
  const auto block = add_block(builder, 64, &end);
  builder.put(3, {pages(0, 64), RunKind::kData, block, 0});
  builder.keep_only(3, std::vector{pages(2, 3), pages(60, 10)});
  const PageIndex index = PageIndex::parse(builder.serialize(kId, end), "i");
  EXPECT_THAT(std::vector(index.runs(3).begin(), index.runs(3).end()),
              ElementsAre(ImageRun{pages(2, 3), RunKind::kData, block, 2},
                          ImageRun{pages(60, 4), RunKind::kData, block, 60}));
  builder.keep_only(3, {});
  EXPECT_EQ(builder.count(RunKind::kData), 0U);
}

// Against a page by page account of the same.
TEST(PageIndex, AgreesWithAnAccountOfEveryPage) {
  std::mt19937 random(7);
  PageIndexBuilder builder;
  std::uint64_t end = kBlockAlignment;
  constexpr unsigned kPages = 200;
  std::vector<int> account(kPages, -1);  // -1 none, -2 zero, -3 base, else block * 64 + page
  for (int step = 0; step < 500; ++step) {
    const unsigned first = random() % kPages;
    const unsigned count = 1 + random() % std::min(64U, kPages - first);
    const auto kind = static_cast<RunKind>(random() % 3);
    std::uint32_t block = 0;
    if (kind == RunKind::kData) block = add_block(builder, 64, &end);
    builder.put(0, {pages(first, count), kind, block, 0});
    for (unsigned i = 0; i < count; ++i) {
      account[first + i] =
          kind == RunKind::kData ? static_cast<int>(block * 64 + i) : -1 - static_cast<int>(kind);
    }
  }
  const PageIndex index = PageIndex::parse(builder.serialize(kId, end), "i");
  for (unsigned i = 0; i < kPages; ++i) {
    const ImageRun* run = index.find(0, pages(i, 1).start);
    int found = -1;
    if (run != nullptr && run->kind != RunKind::kData) found = -1 - static_cast<int>(run->kind);
    if (run != nullptr && run->kind == RunKind::kData) {
      found = static_cast<int>(run->block * 64 + run->first +
                               (pages(i, 1).start - run->range.start) / kPageSize);
    }
    EXPECT_EQ(found, account[i]) << i;
  }
}

TEST(PageIndex, RefusesWhatNobodyWouldHaveWritten) {
  PageIndexBuilder empty;
  const std::string body = empty.serialize(kId, kBlockAlignment);
  EXPECT_EQ(story_of(body), "");
  EXPECT_THAT(story_of(body.substr(0, body.size() - 1)), HasSubstr("dir/index: cut off"));
  EXPECT_THAT(story_of(body + "x"), HasSubstr("behind the last run"));

  std::uint64_t end = kBlockAlignment;
  PageIndexBuilder beyond;
  const auto block = add_block(beyond, 2, &end);
  beyond.put(0, {pages(0, 3), RunKind::kData, block, 0});
  EXPECT_THAT(story_of(beyond.serialize(kId, end)), HasSubstr("3 pages from page 0 of block 0"));
  EXPECT_THAT(story_of(beyond.serialize(kId, end - kPageSize)), HasSubstr("block 0: 8192 bytes"));

  PageIndexBuilder misplaced;
  misplaced.add_block({kBlockAlignment + 512, 4096, 1});
  EXPECT_THAT(story_of(misplaced.serialize(kId, 3 * kBlockAlignment)), HasSubstr("offset 4608"));
  PageIndexBuilder longer;
  longer.add_block({kBlockAlignment, 5000, 1, Codec::kZstd});
  EXPECT_THAT(story_of(longer.serialize(kId, 3 * kBlockAlignment)), HasSubstr("for 1 pages"));
}

TEST(PageIndex, AnnouncedNumbersCostNoMemory) {
  PageIndexBuilder empty;
  std::string body = empty.serialize(kId, kBlockAlignment);
  body.replace(24, 8, std::string(8, '\x7f'));
  EXPECT_THAT(story_of(body), HasSubstr("blocks are not there"));
}

}  // namespace
}  // namespace godwit
