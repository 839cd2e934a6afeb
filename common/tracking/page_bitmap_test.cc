#include "common/tracking/page_bitmap.h"

#include <gtest/gtest.h>

#include <random>
#include <set>
#include <vector>

namespace godwit {
namespace {

constexpr Address kBase = 0x7f00'0000'0000 + 5 * kPageSize;

PageRange pages(std::uint64_t first, std::uint64_t count) {
  return {kBase + first * kPageSize, kBase + (first + count) * kPageSize};
}

std::vector<PageRange> runs_of(const PageBitmap& bitmap) {
  std::vector<PageRange> runs;
  bitmap.for_each_run([&](const PageRange& run) { runs.push_back(run); });
  return runs;
}

TEST(PageBitmap, RunsCrossWordsAndBlocks) {
  PageBitmap bitmap;
  bitmap.set(pages(3, 40000));
  bitmap.clear(pages(100, 1));
  bitmap.set(pages(1 << 30, 1));
  EXPECT_EQ(runs_of(bitmap), (std::vector{pages(3, 97), pages(101, 39902), pages(1 << 30, 1)}));
  EXPECT_EQ(bitmap.count(), 40000u);
  bitmap.clear(pages(0, 1ULL << 31));
  EXPECT_TRUE(bitmap.empty());
}

TEST(PageBitmap, AgreesWithASetOfPages) {
  std::mt19937_64 random(1);
  PageBitmap bitmap;
  std::set<std::uint64_t> model;
  for (int step = 0; step < 2000; ++step) {
    const std::uint64_t first = random() % 60000;
    const std::uint64_t count = 1 + random() % 300;
    const bool set = random() % 3 != 0;
    set ? bitmap.set(pages(first, count)) : bitmap.clear(pages(first, count));
    for (std::uint64_t page = first; page < first + count; ++page) {
      set ? (void)model.insert(page) : (void)model.erase(page);
    }
  }
  EXPECT_EQ(bitmap.count(), model.size());
  std::uint64_t in_runs = 0;
  for (const PageRange& run : runs_of(bitmap)) in_runs += run.pages();
  EXPECT_EQ(in_runs, model.size());
  for (int step = 0; step < 2000; ++step) {
    const std::uint64_t first = random() % 60000;
    const std::uint64_t count = 1 + random() % 2000;
    EXPECT_EQ(bitmap.contains(pages(first, 1).start), model.contains(first));
    const auto next = model.lower_bound(first);
    EXPECT_EQ(bitmap.any_in(pages(first, count)), next != model.end() && *next < first + count);
    bool is_set = false;
    const std::uint64_t uniform = bitmap.uniform_bytes(pages(first, count), &is_set) / kPageSize;
    std::uint64_t expected = 1;
    while (expected < count && model.contains(first + expected) == model.contains(first))
      ++expected;
    EXPECT_EQ(is_set, model.contains(first));
    EXPECT_EQ(uniform, expected);
  }
}

TEST(PageBitmap, FindsTheFirstOfARangeAcrossWideGaps) {
  PageBitmap pages;
  constexpr Address kTop = ~0ULL / kPageSize * kPageSize;
  EXPECT_EQ(pages.find_first({0, kTop}), std::nullopt);
  pages.set({0x7f00'0000'5000, 0x7f00'0000'7000});
  EXPECT_EQ(pages.find_first({0, kTop}), 0x7f00'0000'5000U);
  EXPECT_EQ(pages.find_first({0x7f00'0000'6000, kTop}), 0x7f00'0000'6000U);
  EXPECT_EQ(pages.find_first({0, 0x7f00'0000'5000}), std::nullopt);
  EXPECT_EQ(pages.find_first({0x7f00'0000'7000, kTop}), std::nullopt);
}

}  // namespace
}  // namespace godwit
