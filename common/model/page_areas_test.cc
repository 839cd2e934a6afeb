#include "common/model/page_areas.h"

#include <gtest/gtest.h>
#include <sys/mman.h>

namespace godwit {
namespace {

void add_area(proto::Mappings& all, Address start, Address end, proto::Backing backing,
              bool shared = false, unsigned protection = PROT_READ) {
  proto::Mapping& area = *all.add_areas();
  area.set_start(start * kPageSize);
  area.set_end(end * kPageSize);
  area.set_backing(backing);
  area.set_shared(shared);
  area.set_protection(protection);
}

TEST(PageAreasTest, FreshPiecesAreSplitOff) {
  proto::Mappings all;
  add_area(all, 10, 20, proto::BACKING_ANONYMOUS);
  add_area(all, 30, 40, proto::BACKING_ANONYMOUS);
  const auto areas = page_areas(all, {{12 * kPageSize, 14 * kPageSize},
                                      {18 * kPageSize, 20 * kPageSize},
                                      {30 * kPageSize, 40 * kPageSize}});
  ASSERT_EQ(areas.size(), 5u);
  const bool fresh[] = {false, true, false, true, true};
  const Address ends[] = {12, 14, 18, 20, 40};
  for (size_t i = 0; i < 5; ++i) {
    EXPECT_EQ(areas[i].fresh(), fresh[i]) << i;
    EXPECT_EQ(areas[i].end(), ends[i] * kPageSize) << i;
  }
}

TEST(PageAreasTest, WhatAdjoinsAndIsAlikeIsOne) {
  proto::Mappings all;
  add_area(all, 10, 20, proto::BACKING_ANONYMOUS);
  add_area(all, 20, 30, proto::BACKING_ANONYMOUS, false, PROT_READ | PROT_WRITE);
  add_area(all, 30, 40, proto::BACKING_ANONYMOUS, false, PROT_NONE);
  add_area(all, 40, 50, proto::BACKING_FILE);
  add_area(all, 51, 60, proto::BACKING_FILE);
  const auto areas = page_areas(all, {{12 * kPageSize, 15 * kPageSize}});
  ASSERT_EQ(areas.size(), 6u);
  const Address starts[] = {10, 12, 15, 30, 40, 51};
  const Address ends[] = {12, 15, 30, 40, 50, 60};
  for (size_t i = 0; i < 6; ++i) {
    EXPECT_EQ(areas[i].start(), starts[i] * kPageSize) << i;
    EXPECT_EQ(areas[i].end(), ends[i] * kPageSize) << i;
  }
}

TEST(PageAreasTest, SharedFilesAndTheVdsoStayHome) {
  proto::Mappings all;
  add_area(all, 10, 20, proto::BACKING_FILE, true);
  add_area(all, 20, 30, proto::BACKING_VDSO);
  add_area(all, 30, 31, proto::BACKING_FILE);
  add_area(all, 40, 41, proto::BACKING_SHARED_ANONYMOUS, true, PROT_NONE);
  const auto areas = page_areas(all, {});
  ASSERT_EQ(areas.size(), 2u);
  EXPECT_EQ(areas[0].kind(), proto::PageArea::PRIVATE_FILE);
  EXPECT_EQ(areas[1].kind(), proto::PageArea::SHARED_ANONYMOUS);
  EXPECT_TRUE(areas[1].reserved());
  EXPECT_FALSE(areas[0].reserved());
}

}  // namespace
}  // namespace godwit
