#include "page-server/missing_pages.h"

#include <gtest/gtest.h>

#include <vector>

namespace godwit {
namespace {

constexpr Address kBase = 0x550000000000;

PageRange pages(std::uint64_t first, std::uint64_t count) {
  return {kBase + first * kPageSize, kBase + (first + count) * kPageSize};
}

class MissingPagesTest : public ::testing::Test {
 protected:
  void add(std::uint32_t space, const std::vector<PageRange>& ranges) {
    PageBitmap bitmap;
    for (const PageRange& range : ranges) bitmap.set(range);
    missing_.set(space, bitmap);
  }
  MissingPages missing_;
};

TEST_F(MissingPagesTest, AllAreTakenOnceAndInOrder) {
  add(1, {pages(0, 10), pages(20, 3)});
  add(2, {pages(5, 1)});
  EXPECT_EQ(missing_.left(), 14u);
  EXPECT_EQ(missing_.take_next(1, 8), pages(0, 8));
  EXPECT_EQ(missing_.take_next(1, 8), pages(8, 2));  // as far as it has no gap
  EXPECT_EQ(missing_.take_next(1, 8), pages(20, 3));
  EXPECT_EQ(missing_.take_next(1, 8), std::nullopt);
  EXPECT_EQ(missing_.left(), 1u);
  EXPECT_EQ(missing_.take_next(2, 8), pages(5, 1));
  EXPECT_EQ(missing_.take_next(3, 8), std::nullopt);
  EXPECT_EQ(missing_.left(), 0u);
}

TEST_F(MissingPagesTest, AFaultTakesItsPageWithItsNeighbourhood) {
  add(1, {pages(0, 100)});
  EXPECT_EQ(missing_.take_at(1, pages(50, 1).start, 16), pages(50, 16));
  EXPECT_EQ(missing_.take_at(1, pages(60, 1).start, 16), std::nullopt);   // on its way
  EXPECT_EQ(missing_.take_at(1, pages(45, 1).start, 16), pages(45, 5));   // up to what was taken
  EXPECT_EQ(missing_.take_at(1, pages(200, 1).start, 16), std::nullopt);  // never missing
  EXPECT_EQ(missing_.take_at(2, pages(0, 1).start, 16), std::nullopt);
  EXPECT_EQ(missing_.left(), 79u);
}

TEST_F(MissingPagesTest, TheStreamFollowsAFaultAndComesBack) {
  add(1, {pages(0, 1000)});
  EXPECT_EQ(missing_.take_next(1, 8), pages(0, 8));
  missing_.take_at(1, pages(500, 1).start, 16);
  std::uint64_t followed = 0;
  std::optional<PageRange> taken;
  while ((taken = missing_.take_next(1, 8)) && taken->start >= pages(500, 1).start) {
    EXPECT_EQ(*taken, pages(516 + followed, 8));
    followed += 8;
  }
  EXPECT_EQ(followed * kPageSize, 512u << 10);
  EXPECT_EQ(taken, pages(8, 8));
  std::uint64_t rest = 0;
  while ((taken = missing_.take_next(1, 64))) rest += taken->pages();
  EXPECT_EQ(rest, 1000 - 8 - 16 - followed - 8);
}

TEST_F(MissingPagesTest, OnlyWhatWasNamedMayBeAskedFor) {
  add(1, {pages(10, 2)});
  EXPECT_TRUE(missing_.names(1, pages(10, 1).start));
  EXPECT_TRUE(missing_.names(1, pages(11, 1).start));
  EXPECT_FALSE(missing_.names(1, pages(12, 1).start));
  EXPECT_FALSE(missing_.names(2, pages(10, 1).start));
  missing_.take_next(1, 8);  // it may be asked for all the same: it may be on its way
  EXPECT_TRUE(missing_.names(1, pages(10, 1).start));
}

TEST(MissingPagesOrder, SomeGoFirst) {
  MissingPages missing;
  PageBitmap all;
  all.set({0x100000, 0x200000});
  missing.set(0, all);
  PageBitmap first;
  first.set({0x180000, 0x182000});
  missing.put_first(0, first);
  EXPECT_EQ(missing.take_next(0, 64), (PageRange{0x180000, 0x182000}));
  EXPECT_EQ(missing.take_next(0, 64), (PageRange{0x100000, 0x140000}));
}

}  // namespace
}  // namespace godwit
