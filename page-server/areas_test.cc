#include "page-server/areas.h"

#include <gtest/gtest.h>

#include <vector>

#include "common/base/error.h"

namespace godwit {
namespace {

proto::SetAreas order_of(const std::vector<PageRange>& ranges) {
  proto::SetAreas order;
  for (const PageRange& range : ranges) {
    proto::PageArea& area = *order.add_areas();
    area.set_start(range.start);
    area.set_end(range.end);
  }
  return order;
}

TEST(Areas, AreSortedAndFound) {
  const std::vector<TrackedArea> areas =
      areas_of(order_of({{0x5000, 0x6000}, {0x1000, 0x3000}, {0x3000, 0x4000}}));
  ASSERT_EQ(areas.size(), 3u);
  EXPECT_EQ(areas[0].range.start, 0x1000u);
  EXPECT_EQ(find_area(areas, 0x2fff), &areas[0]);
  EXPECT_EQ(find_area(areas, 0x3000), &areas[1]);
  EXPECT_EQ(find_area(areas, 0x4000), nullptr);
  EXPECT_EQ(find_area(areas, 0x6000), nullptr);
  EXPECT_EQ(find_area({}, 0x1000), nullptr);
}

TEST(Areas, NonsenseIsRefused) {
  EXPECT_THROW(areas_of(order_of({{0x1000, 0x1000}})), Error);
  EXPECT_THROW(areas_of(order_of({{0x1001, 0x3000}})), Error);
  EXPECT_THROW(areas_of(order_of({{0x3000, 0x1000}})), Error);
  EXPECT_THROW(areas_of(order_of({{0x1000, 0x3000}, {0x2000, 0x4000}})), Error);
}

TEST(Areas, WhatIsLostIsForgotten) {
  PageBitmap pages;
  pages.set({0x1000, 0x10000});
  pages.set({0x7fff'ffff'0000, 0x7fff'ffff'2000});
  std::vector<TrackedArea> areas{
      {{0x2000, 0x4000}}, {{0x4000, 0x6000}, AreaKind::kAnonymous, true}, {{0x8000, 0x9000}}};
  forget_lost_pages(areas, pages);
  std::vector<PageRange> left;
  pages.for_each_run([&](const PageRange& run) { left.push_back(run); });
  EXPECT_EQ(left, (std::vector<PageRange>{{0x2000, 0x4000}, {0x8000, 0x9000}}));
}

}  // namespace
}  // namespace godwit
