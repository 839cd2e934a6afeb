#include "page-server/index_pages.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <random>
#include <set>

namespace godwit {
namespace {

constexpr Address kBase = 0x7f00'0000'0000;
constexpr std::uint64_t kWords = kPageSize / 8;

PageRange pages(std::uint64_t first, std::uint64_t count) {
  return {kBase + first * kPageSize, kBase + (first + count) * kPageSize};
}

// What each page of the process holds, by its number.
class IndexPagesTest : public ::testing::Test {
 protected:
  using Fill = std::function<std::uint64_t(std::uint64_t word)>;

  void hold(const PageRange& range, Fill fill) { held_.emplace_back(range, std::move(fill)); }

  std::vector<PageRange> find(std::uint64_t pages_max) {
    PageBitmap candidates;
    for (const auto& [range, fill] : held_) candidates.set(range);
    const std::vector<TrackedArea> areas{{pages(0, 4096), AreaKind::kAnonymous},
                                         {pages(4096, 1024), AreaKind::kSharedAnonymous}};
    const auto read = [&](Address page, std::span<std::byte> to) {
      read_.insert(page);
      for (const auto& [range, fill] : held_) {
        if (!range.contains(page)) continue;
        for (std::uint64_t word = 0; word < kWords; ++word) {
          const std::uint64_t value = fill(word);
          std::memcpy(to.data() + word * sizeof(value), &value, sizeof(value));
        }
        return true;
      }
      return false;
    };
    return find_index_pages(areas, candidates, pages_max, read);
  }

  Fill addresses(std::uint64_t one_in) {
    return [this, one_in](std::uint64_t word) {
      return word % one_in == 0 ? kBase + random_() % (4096 * kPageSize) : 0;
    };
  }
  Fill noise() {
    return [this](std::uint64_t) { return random_(); };
  }

  std::vector<std::pair<PageRange, Fill>> held_;
  std::set<Address> read_;
  std::mt19937_64 random_{7};
};

TEST_F(IndexPagesTest, ATableAmongValues) {
  hold(pages(0, 1024), noise());
  hold(pages(1024, 512), addresses(2));
  hold(pages(1536, 2000), noise());
  EXPECT_THAT(find(4096), ::testing::ElementsAre(pages(1024, 256), pages(1280, 256)));
  EXPECT_LT(read_.size(), 200u);
}

TEST_F(IndexPagesTest, NoMoreThanIsWanted) {
  hold(pages(0, 1024), addresses(1));
  EXPECT_THAT(find(300), ::testing::ElementsAre(pages(0, 256), pages(256, 44)));
}

TEST_F(IndexPagesTest, NeitherZerosNorTextNorObjectsNorWhatIsShared) {
  hold(pages(0, 256), [](std::uint64_t) { return 0; });
  hold(pages(256, 256), [](std::uint64_t) { return 0x6574742077207369; });
  hold(pages(512, 256), [&](std::uint64_t word) { return word % 2 == 0 ? kBase + 64 : 17; });
  hold(pages(768, 256), addresses(64));  // nearly empty
  hold(pages(4096, 1024), addresses(1));
  EXPECT_THAT(find(4096), ::testing::IsEmpty());
}

TEST_F(IndexPagesTest, OnlyWhatIsACandidate) {
  hold(pages(10, 220), addresses(1));
  hold(pages(240, 26), addresses(1));
  hold(pages(600, 8), addresses(1));  // too few to tell
  EXPECT_THAT(find(4096), ::testing::ElementsAre(pages(10, 220), pages(240, 26)));
}

}  // namespace
}  // namespace godwit
