#include "page-server/copy_on_write.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cstring>
#include <map>
#include <string>
#include <thread>
#include <vector>

#include "common/tracking/blocking_tracker.h"
#include "common/tracking/test_child.h"
#include "common/tracking/write_protect_arm.h"

namespace godwit {
namespace {

using testing::TestChild;

constexpr Address kBase = 0x550000000000;
constexpr std::uint64_t kPages = 4096;

PageRange pages(std::uint64_t first, std::uint64_t count) {
  return {kBase + first * kPageSize, kBase + (first + count) * kPageSize};
}

// What an image would hold in the end: the last content of each page.
class LastContents final : public FrameSink {
 public:
  std::unique_ptr<PageFrame> take_free() override { return std::make_unique<PageFrame>(); }
  void push(std::unique_ptr<PageFrame> frame) override {
    frame->for_each_run([&](const PageFrame::Run& run) {
      for (std::uint64_t page = 0; page < run.range.pages(); ++page) {
        std::vector<std::byte>& content = contents[run.range.start + page * kPageSize];
        content.assign(kPageSize, std::byte{});
        if (run.data != nullptr) {
          std::memcpy(content.data(), run.data + page * kPageSize, kPageSize);
        }
      }
    });
    if (after_push) after_push();
  }
  std::map<Address, std::vector<std::byte>> contents;
  std::function<void()> after_push;
};

// A process with written pages of which nothing is saved.
class CopyOnWriteTest : public ::testing::Test {
 protected:
  void SetUp() override {
    child_.map(pages(0, kPages));
    child_.fill(pages(0, kPages), 1);
    UniqueFd uffd = child_.uffd(UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_EVENT_REMAP |
                                UFFD_FEATURE_EVENT_REMOVE | UFFD_FEATURE_EVENT_UNMAP);
    const std::array ranges{pages(0, kPages)};
    ASSERT_TRUE(arm_write_protect(uffd.get(), ranges).empty());
    copy_.emplace(link_, std::move(uffd), child_.memory_fd(), child_.pagemap_fd(),
                  [this](const std::string& story) {
                    story_ = story;
                    failed_ = true;
                  });
  }
  void TearDown() override { EXPECT_FALSE(failed_) << story_; }

  // The child does nothing meanwhile: this is the instant.
  void hold() {
    at_instant_ = child_.read(pages(0, kPages));
    PageBitmap written;
    written.set(pages(0, kPages));
    copy_->hold(std::vector<TrackedArea>{{pages(0, kPages)}}, written);
    EXPECT_TRUE(written.empty());
  }
  bool save() {
    PageReader reader(child_.memory_fd(), sink_, sent_, 0, 1, 1, false);
    const bool whole = copy_->save(reader);
    reader.finish();
    return whole;
  }
  void expect_instant() {
    for (std::uint64_t page = 0; page < kPages; ++page) {
      const auto found = sink_.contents.find(pages(page, 1).start);
      ASSERT_NE(found, sink_.contents.end()) << page;
      ASSERT_EQ(std::memcmp(found->second.data(), at_instant_.data() + page * kPageSize, kPageSize),
                0)
          << page;
    }
  }

  std::pair<UniqueFd, UniqueFd> ends_ = PageServiceLink::make_sockets();
  PageServiceLink link_{std::move(ends_.second)};
  TestChild child_;
  std::optional<CopyOnWrite> copy_;
  std::vector<std::byte> at_instant_;
  LastContents sink_;
  PageBitmap sent_;
  std::string story_;
  std::atomic<bool> failed_{false};
};

TEST_F(CopyOnWriteTest, SavesTheInstantUnderWrites) {
  hold();
  child_.start_writing(pages(0, kPages), 0);
  EXPECT_TRUE(save());
  EXPECT_GT(child_.stop_writing(), 0U);
  expect_instant();
  EXPECT_EQ(copy_->held_pages(), kPages);
}

TEST_F(CopyOnWriteTest, CopiesWhatIsAboutToBeWritten) {
  hold();
  child_.fill(pages(100, 300), 7);
  EXPECT_EQ(copy_->copied_pages(), 300U);
  EXPECT_TRUE(save());
  expect_instant();
}

TEST_F(CopyOnWriteTest, SeesPagesBeingMoved) {
  hold();
  child_.move(pages(64, 64), kBase + 2 * kPages * kPageSize);
  child_.fill(pages(2 * kPages, 64), 9);
  EXPECT_TRUE(save());
  expect_instant();
}

TEST_F(CopyOnWriteTest, MovesWhileItIsSaved) {
  hold();
  std::uint64_t next = kPages;
  sink_.after_push = [&] {
    if (next == 0) return;
    next -= 64;
    child_.move(pages(next, 64), kBase + (2 * kPages + next) * kPageSize);
    child_.fill(pages(2 * kPages + next, 64), 9);
  };
  EXPECT_TRUE(save());
  sink_.after_push = nullptr;
  expect_instant();
}

TEST_F(CopyOnWriteTest, NoticesThatPagesAreUnmapped) {
  hold();
  child_.unmap(pages(2000, 1));
  EXPECT_FALSE(save());
}

// The kernel goes on as soon as it was heard: either all of it was copied, or it is told as lost.
TEST_F(CopyOnWriteTest, NeverTakesZerosForWhatWasGivenBack) {
  hold();
  for (std::uint64_t page = 0; page < 200; page += 2) child_.zap(pages(page, 1));
  child_.fill(pages(0, 200), 3);
  if (save()) expect_instant();
}

TEST_F(CopyOnWriteTest, NoticesGuardsThatNobodyTellsOf) {
  hold();
  try {
    child_.guard(pages(1000, 1));
  } catch (const Error&) {
    GTEST_SKIP() << "no guards on this kernel";
  }
  EXPECT_FALSE(save());
}

TEST_F(CopyOnWriteTest, AForkGetsPagesOfItsOwn) {
  hold();
  child_.start_reading_in_fork(pages(0, kPages));
  child_.fill(pages(0, 500), 11);
  EXPECT_TRUE(save());
  child_.finish_reading();
  expect_instant();
}

TEST_F(CopyOnWriteTest, LeavesWhatIsLittleToBeCopiedAtOnce) {
  PageBitmap written;
  written.set(pages(0, CopyOnWrite::kAtOncePages));
  copy_->hold(std::vector<TrackedArea>{{pages(0, kPages)}}, written);
  EXPECT_EQ(written.count(), CopyOnWrite::kAtOncePages);
  EXPECT_EQ(copy_->held_pages(), 0U);
}

TEST_F(CopyOnWriteTest, LetsEverybodyGoOnWhenItEnds) {
  hold();
  copy_.reset();
  child_.fill(pages(0, kPages), 2);  // would wait for ever
}

class BlockingTrackerTest : public CopyOnWriteTest {
 protected:
  ScanFindings scan(ScanMode mode, bool fresh = false) {
    BlockingTracker tracker(child_.pagemap_fd(), copy_->uffd(), true);
    ScanFindings findings;
    tracker.scan(std::vector<TrackedArea>{{pages(0, kPages), AreaKind::kAnonymous, fresh}}, mode,
                 sent_, findings);
    findings.zero.for_each_run([&](const PageRange& run) { sent_.clear(run); });
    findings.data.for_each_run([&](const PageRange& run) { sent_.set(run); });
    return findings;
  }
};

TEST_F(BlockingTrackerTest, TellsEachWriteOnce) {
  EXPECT_EQ(scan(ScanMode::kRunning, true).data.count(), kPages);
  EXPECT_TRUE(scan(ScanMode::kRunning).data.empty());
  child_.fill(pages(7, 2), 2);
  EXPECT_EQ(scan(ScanMode::kRunning).data.count(), 2U);
  EXPECT_TRUE(scan(ScanMode::kRunning).data.empty());
  child_.fill(pages(7, 1), 3);
  EXPECT_EQ(scan(ScanMode::kFinal).data.count(), 1U);
}

TEST_F(BlockingTrackerTest, TellsWhatWasGivenBack) {
  scan(ScanMode::kRunning, true);
  child_.zap(pages(10, 2));
  EXPECT_EQ(scan(ScanMode::kRunning).zero.count(), 2U);
  child_.zap(pages(20, 1));
  const ScanFindings last = scan(ScanMode::kFinal);
  EXPECT_EQ(last.zero.count(), 1U);
  EXPECT_TRUE(last.untracked.empty());
  child_.zap(pages(512, 1024));  // whole page tables
  EXPECT_EQ(scan(ScanMode::kFinal).zero.count(), 1024U);
}

TEST_F(BlockingTrackerTest, TellsWhatCameBackAfterItWasGivenBack) {
  scan(ScanMode::kRunning, true);
  child_.zap(pages(512, 1024));
  child_.fill(pages(600, 100), 3);
  const ScanFindings last = scan(ScanMode::kFinal);
  EXPECT_EQ(last.data.count(), 100U);
  EXPECT_EQ(last.zero.count(), 924U);
}

TEST_F(BlockingTrackerTest, TellsWhatWasMovedOverIt) {
  child_.map(pages(2 * kPages, 512));
  child_.fill(pages(2 * kPages, 512), 3);
  const std::array ranges{pages(2 * kPages, 512)};
  ASSERT_TRUE(arm_write_protect(copy_->uffd(), ranges).empty());
  scan(ScanMode::kRunning, true);
  child_.move(pages(2 * kPages, 512), kBase + 1024 * kPageSize);
  EXPECT_EQ(scan(ScanMode::kRunning).data.count(), 512U);
}

TEST_F(BlockingTrackerTest, TakesAllOfWhatWasMappedAnew) {
  scan(ScanMode::kRunning, true);
  child_.unmap(pages(100, 10));
  child_.map(pages(100, 10));
  child_.fill(pages(100, 10), 5);
  const ScanFindings found = scan(ScanMode::kRunning);
  EXPECT_EQ(found.data.count(), kPages);
  ASSERT_EQ(found.untracked.size(), 1U);
}

}  // namespace
}  // namespace godwit
