#include "page-server/page_placer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "common/base/error.h"
#include "common/kernel/userfaultfd.h"
#include "common/tracking/test_child.h"

namespace godwit {
namespace {

using ::testing::HasSubstr;
using testing::TestChild;

constexpr Address kBase = 0x550000000000;

PageRange pages(std::uint64_t first, std::uint64_t count) {
  return {kBase + first * kPageSize, kBase + (first + count) * kPageSize};
}

class PagePlacerTest : public ::testing::Test {
 protected:
  void build(TestChild& child, const std::vector<PageRange>& registered) {
    child_ = &child;
    uffd_ = child.uffd(0);
    for (const PageRange& range : registered) {
      userfaultfd_register(uffd_.get(), range, UFFDIO_REGISTER_MODE_MISSING);
    }
    placer_ =
        std::make_unique<PagePlacer>(duplicate_fd(child.memory_fd()), duplicate_fd(uffd_.get()));
  }
  void same_areas(std::uint64_t generation) {
    proto::SetAreas order;
    order.set_generation(generation);
    order.set_same(true);
    placer_->set_areas(order);
  }
  void set_areas(std::uint64_t generation, const std::vector<TrackedArea>& areas) {
    proto::SetAreas order;
    order.set_generation(generation);
    for (const TrackedArea& area : areas) {
      proto::PageArea& added = *order.add_areas();
      added.set_start(area.range.start);
      added.set_end(area.range.end);
      added.set_fresh(area.fresh);
      added.set_kind(area.kind == AreaKind::kPrivateFile ? proto::PageArea::PRIVATE_FILE
                                                         : proto::PageArea::ANONYMOUS);
    }
    placer_->set_areas(order);
  }
  std::string place(std::uint64_t generation, const PageRange& range, char content) {
    PageFrame frame;
    frame.begin(PageFrame::Type::kPages, 0, 0, generation);
    std::fill_n(frame.data_room().begin(), range.bytes(), static_cast<std::byte>(content));
    frame.add_data(range.start, range.pages());
    return place(frame);
  }
  std::string place_zero(std::uint64_t generation, const PageRange& range) {
    PageFrame frame;
    frame.begin(PageFrame::Type::kPages, 0, 0, generation);
    frame.add_zero(range.start, range.pages());
    return place(frame);
  }
  std::string place(PageFrame& frame) {
    try {
      placer_->place(frame);
      return {};
    } catch (const Error& error) {
      return error.what();
    }
  }
  // One letter a page: '.' for zeros. Ends the filling: missing pages become zero pages.
  std::string content(const PageRange& range) {
    placer_.reset();
    uffd_.reset();
    const std::vector<std::byte> data = child_->read(range);
    std::string letters;
    for (std::size_t at = 0; at < data.size(); at += kPageSize) {
      const bool even = std::all_of(data.begin() + static_cast<std::ptrdiff_t>(at),
                                    data.begin() + static_cast<std::ptrdiff_t>(at + kPageSize),
                                    [&](std::byte byte) { return byte == data[at]; });
      letters += !even ? '?' : data[at] == std::byte{0} ? '.' : static_cast<char>(data[at]);
    }
    return letters;
  }

  TestChild* child_ = nullptr;
  UniqueFd uffd_;
  std::unique_ptr<PagePlacer> placer_;
};

TEST_F(PagePlacerTest, FillsOverwritesAndClears) {
  TestChild child;
  child.map(pages(0, 16));
  build(child, {pages(0, 16)});
  set_areas(1, {{pages(0, 16), AreaKind::kAnonymous, true}});
  EXPECT_EQ(place(1, pages(2, 4), 'a'), "");
  EXPECT_EQ(place(1, pages(4, 6), 'b'), "");   // two present, four missing
  EXPECT_EQ(place_zero(1, pages(3, 13)), "");  // some of them were never there
  EXPECT_EQ(place(1, pages(7, 1), 'c'), "");
  EXPECT_EQ(content(pages(0, 16)), "..a....c........");
}

TEST_F(PagePlacerTest, PagesOfAreasThatAreNotRegisteredAreWritten) {
  TestChild child;
  child.map(pages(0, 16));
  build(child, {pages(4, 2), pages(8, 8)});
  set_areas(1, {{pages(0, 16), AreaKind::kAnonymous, true}});
  EXPECT_EQ(place(1, pages(1, 12), 'a'), "");
  EXPECT_EQ(place_zero(1, pages(2, 2)), "");
  EXPECT_EQ(place(1, pages(3, 1), 'b'), "");
  EXPECT_EQ(content(pages(0, 16)), ".a.baaaaaaaaa...");
}

TEST_F(PagePlacerTest, PagesThatWereThereBeforeAreOverwritten) {
  TestChild child;
  child.map(pages(0, 8));
  child.fill(pages(3, 2), 1);
  build(child, {pages(0, 8)});
  set_areas(1, {{pages(0, 8), AreaKind::kAnonymous, true}});
  EXPECT_EQ(place(1, pages(1, 6), 'a'), "");
  EXPECT_EQ(content(pages(0, 8)), ".aaaaaa.");
}

TEST_F(PagePlacerTest, ARunMayCrossMappingsWithinAnArea) {
  TestChild child;
  child.map(pages(0, 8));
  child.use_huge_pages(pages(4, 4));  // other flags: a mapping of its own
  build(child, {pages(0, 8)});
  set_areas(1, {{pages(0, 8), AreaKind::kAnonymous, true}});
  EXPECT_EQ(place(1, pages(0, 8), 'a'), "");
  EXPECT_EQ(content(pages(0, 8)), "aaaaaaaa");
}

TEST_F(PagePlacerTest, NothingGoesOutsideOfTheAreas) {
  TestChild child;
  child.map(pages(0, 8));
  build(child, {pages(0, 8)});
  set_areas(1,
            {{pages(1, 2), AreaKind::kAnonymous, true}, {pages(3, 2), AreaKind::kAnonymous, true}});
  EXPECT_THAT(place(1, pages(0, 1), 'x'), HasSubstr("came for no area"));
  EXPECT_THAT(place(1, pages(0, 2), 'x'), HasSubstr("came for no area"));
  EXPECT_EQ(place(1, pages(2, 2), 'y'), "");  // adjoining areas may share a run
  EXPECT_THAT(place(1, pages(4, 2), 'x'), HasSubstr("came for no area"));
  EXPECT_THAT(place_zero(1, pages(5, 1)), HasSubstr("came for no area"));
  // What came before the error may have been placed: the migration is over then.
  EXPECT_EQ(content(pages(5, 3)), "...");
}

TEST_F(PagePlacerTest, AnAreaWithoutMappingIsTold) {
  TestChild child;
  child.map(pages(0, 8));
  build(child, {pages(0, 8)});
  set_areas(1, {{pages(4, 8), AreaKind::kAnonymous, true}});
  EXPECT_THAT(place(1, pages(6, 4), 'x'), HasSubstr("the page at 550000008000"));
}

TEST_F(PagePlacerTest, TheSameAreasUnderALaterGeneration) {
  TestChild child;
  child.map(pages(0, 8));
  build(child, {pages(0, 8)});
  set_areas(1, {{pages(0, 4), AreaKind::kAnonymous, true}});
  EXPECT_EQ(place(1, pages(0, 2), 'a'), "");
  same_areas(2);
  EXPECT_EQ(placer_->generation(), 2u);
  EXPECT_EQ(place(1, pages(1, 1), 'b'), "");  // nothing was made anew: an older page still counts
  EXPECT_EQ(place(2, pages(2, 1), 'c'), "");
  EXPECT_THAT(place(2, pages(4, 1), 'x'), HasSubstr("came for no area"));
  EXPECT_EQ(content(pages(0, 4)), "abc.");
}

TEST_F(PagePlacerTest, OlderFramesOnlyReachWhatIsStillTheSame) {
  TestChild child;
  child.map(pages(0, 16));
  build(child, {pages(0, 16)});
  set_areas(1, {{pages(0, 16), AreaKind::kAnonymous, true}});
  EXPECT_EQ(place(1, pages(0, 1), 'a'), "");
  // 4..7 were made anew, 12..15 dropped.
  set_areas(2, {{pages(0, 4)}, {pages(4, 4), AreaKind::kAnonymous, true}, {pages(8, 4)}});
  EXPECT_EQ(place(1, pages(2, 12), 'b'), "");
  EXPECT_EQ(place(2, pages(5, 1), 'c'), "");
  EXPECT_EQ(content(pages(0, 16)), "a.bb.c..bbbb....");
}

TEST_F(PagePlacerTest, FilePagesAreWrittenThroughTheMemoryFile) {
  const UniqueFd file(memfd_create("godwit-test", MFD_CLOEXEC));
  const std::vector<char> text(8 * kPageSize, 'f');
  ASSERT_GT(write(file.get(), text.data(), text.size()), 0);
  TestChild child(file.get());
  child.map_file(pages(0, 8));
  build(child, {});
  set_areas(1, {{pages(0, 8), AreaKind::kPrivateFile, true}});
  EXPECT_EQ(place(1, pages(2, 2), 'a'), "");
  EXPECT_THAT(place_zero(1, pages(2, 1)), HasSubstr("for a mapping of a file"));
  EXPECT_EQ(content(pages(0, 8)), "ffaaffff");
  std::vector<char> now(text.size());
  ASSERT_GT(pread(file.get(), now.data(), now.size(), 0), 0);
  EXPECT_EQ(now, text);
}

TEST_F(PagePlacerTest, AnEndedTaskIsTold) {
  TestChild child;
  child.map(pages(0, 8));
  build(child, {pages(0, 8)});
  set_areas(1, {{pages(0, 8), AreaKind::kAnonymous, true}});
  EXPECT_EQ(place(1, pages(0, 1), 'a'), "");
  child.end();
  EXPECT_THAT(place(1, pages(1, 1), 'a'), HasSubstr("No such process"));
  EXPECT_THAT(place(1, pages(0, 1), 'b'), HasSubstr("is gone"));
}

}  // namespace
}  // namespace godwit
