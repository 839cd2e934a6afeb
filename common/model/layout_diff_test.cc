#include "common/model/layout_diff.h"

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <map>
#include <random>

#include "common/base/error.h"

namespace godwit {
namespace {

proto::Mapping& add_area(proto::Mappings& all, Address start, Address end, int protection,
                         proto::Backing backing = proto::BACKING_ANONYMOUS) {
  proto::Mapping& area = *all.add_areas();
  area.set_start(start * kPageSize);
  area.set_end(end * kPageSize);
  area.set_protection(static_cast<std::uint32_t>(protection));
  area.set_backing(backing);
  return area;
}

TEST(LayoutDiffTest, NothingToDoBetweenEqualLayouts) {
  proto::Mappings layout;
  add_area(layout, 1, 4, PROT_READ);
  add_area(layout, 4, 9, PROT_READ | PROT_WRITE);
  EXPECT_TRUE(diff_layout(layout, layout).empty());
}

TEST(LayoutDiffTest, FromNothingMapsAll) {
  proto::Mappings want;
  add_area(want, 1, 4, PROT_READ);
  add_area(want, 8, 9, PROT_READ);
  const proto::Mappings nothing;
  const LayoutDiff diff = diff_layout(nothing, want);
  EXPECT_TRUE(diff.unmap.empty());
  ASSERT_EQ(diff.map.size(), 2u);
  EXPECT_EQ(diff.map[1].range, (PageRange{8 * kPageSize, 9 * kPageSize}));
}

TEST(LayoutDiffTest, GrownHeapKeepsItsPages) {
  proto::Mappings have;
  proto::Mappings want;
  add_area(have, 10, 20, PROT_READ | PROT_WRITE);
  add_area(want, 10, 25, PROT_READ | PROT_WRITE);
  const LayoutDiff diff = diff_layout(have, want);
  EXPECT_TRUE(diff.unmap.empty());
  EXPECT_TRUE(diff.change.empty());
  ASSERT_EQ(diff.map.size(), 1u);
  EXPECT_EQ(diff.map[0].range, (PageRange{20 * kPageSize, 25 * kPageSize}));
}

TEST(LayoutDiffTest, SplitByProtectionIsAChangeNotANewArea) {
  proto::Mappings have;
  proto::Mappings want;
  add_area(have, 10, 20, PROT_READ | PROT_WRITE);
  add_area(want, 10, 14, PROT_READ);
  add_area(want, 14, 20, PROT_READ | PROT_WRITE);
  const LayoutDiff diff = diff_layout(have, want);
  EXPECT_TRUE(diff.unmap.empty());
  EXPECT_TRUE(diff.map.empty());
  ASSERT_EQ(diff.change.size(), 1u);
  EXPECT_EQ(diff.change[0].range, (PageRange{10 * kPageSize, 14 * kPageSize}));
}

TEST(LayoutDiffTest, FileAtAnotherOffsetIsReplaced) {
  proto::Mappings have;
  have.add_files()->set_path("/lib/a");
  proto::Mappings want = have;
  add_area(have, 10, 20, PROT_READ, proto::BACKING_FILE).set_offset(0);
  add_area(want, 10, 20, PROT_READ, proto::BACKING_FILE).set_offset(kPageSize);
  const LayoutDiff diff = diff_layout(have, want);
  EXPECT_EQ(diff.unmap.size(), 1u);
  EXPECT_EQ(diff.map.size(), 1u);
}

TEST(LayoutDiffTest, FilesAreComparedByPathNotByIndex) {
  proto::Mappings have;
  have.add_files()->set_path("/lib/a");
  proto::Mappings want;
  want.add_files()->set_path("/lib/b");
  want.add_files()->set_path("/lib/a");
  add_area(have, 10, 20, PROT_READ, proto::BACKING_FILE).set_file(0);
  add_area(want, 10, 20, PROT_READ, proto::BACKING_FILE).set_file(1);
  EXPECT_TRUE(diff_layout(have, want).empty());
}

// A model of an address space: which kind of backing and protection every page has.
using Model = std::map<Address, std::pair<int, int>>;

Model model_of(const proto::Mappings& layout) {
  Model model;
  for (const proto::Mapping& area : layout.areas()) {
    for (Address page = area.start(); page < area.end(); page += kPageSize) {
      model[page] = {static_cast<int>(area.flags()), static_cast<int>(area.protection())};
    }
  }
  return model;
}

proto::Mappings random_layout(std::mt19937& random) {
  proto::Mappings layout;
  Address at = 1;
  while (at < 60) {
    at += random() % 4;
    const Address end = at + 1 + random() % 8;
    proto::Mapping& area = add_area(layout, at, end, static_cast<int>(random() % 4));
    area.set_flags(random() % 2 == 0 ? 0u : static_cast<unsigned>(proto::AREA_NO_RESERVE));
    at = end;
  }
  return layout;
}

TEST(LayoutDiffTest, ApplyingADiffGivesTheWantedLayoutAlways) {
  std::mt19937 random(7);
  for (int turn = 0; turn < 20000; ++turn) {
    const proto::Mappings have = random_layout(random);
    const proto::Mappings want = random_layout(random);
    Model model = model_of(have);
    const LayoutDiff diff = diff_layout(have, want);
    for (const PageRange& range : diff.unmap) {
      for (Address page = range.start; page < range.end; page += kPageSize) {
        ASSERT_EQ(model.erase(page), 1u);
      }
    }
    const auto put = [&](const LayoutSegment& segment, bool is_new) {
      for (Address page = segment.range.start; page < segment.range.end; page += kPageSize) {
        ASSERT_EQ(model.contains(page), !is_new);
        model[page] = {static_cast<int>(segment.want->flags()),
                       static_cast<int>(segment.want->protection())};
      }
    };
    for (const LayoutSegment& segment : diff.map) put(segment, true);
    for (const LayoutSegment& segment : diff.change) put(segment, false);
    ASSERT_EQ(model, model_of(want));
    ASSERT_TRUE(diff_layout(want, want).empty());
  }
}

TEST(LayoutDiffTest, BadDescriptionsAreRefused) {
  proto::Mappings overlap;
  add_area(overlap, 1, 4, PROT_READ);
  add_area(overlap, 3, 6, PROT_READ);
  EXPECT_THROW(check_mappings(overlap), Error);
  proto::Mappings no_file;
  add_area(no_file, 1, 4, PROT_READ, proto::BACKING_FILE);
  EXPECT_THROW(check_mappings(no_file), Error);
  proto::Mappings unaligned;
  add_area(unaligned, 1, 4, PROT_READ).set_end(4 * kPageSize + 1);
  EXPECT_THROW(check_mappings(unaligned), Error);
}

}  // namespace
}  // namespace godwit
