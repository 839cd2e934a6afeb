#include "common/tracking/write_protect_tracker.h"

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <array>
#include <string>
#include <vector>

#include "common/base/clock.h"
#include "common/tracking/test_child.h"
#include "common/tracking/tracker_probe.h"
#include "common/tracking/write_protect_arm.h"

namespace godwit {
namespace {

using testing::TestChild;
using Runs = std::vector<PageRange>;

constexpr Address kBase = 0x200000000000;

PageRange pages(std::uint64_t first, std::uint64_t count) {
  return {kBase + first * kPageSize, kBase + (first + count) * kPageSize};
}

Runs runs_of(const PageBitmap& bitmap) {
  Runs runs;
  bitmap.for_each_run([&](const PageRange& run) { runs.push_back(run); });
  return runs;
}

// Both ways in which a kernel can treat absent pages are gone through; the second holds on any.
class WriteProtectTrackerTest : public ::testing::TestWithParam<bool> {
 protected:
  void SetUp() override {
    if (!probe_write_protect()) GTEST_SKIP() << "no write-protect tracking on this kernel";
    if (GetParam() && !probe_absent_is_written()) GTEST_SKIP() << "not on this kernel";
  }
  void watch(TestChild& child, const std::vector<PageRange>& ranges) {
    uffd_ = child.uffd(kUffdWriteProtectAsync | kUffdWriteProtectUnpopulated);
    arm(child, ranges);
    tracker_ = std::make_unique<WriteProtectTracker>(child.pagemap_fd(), GetParam());
  }
  void arm(TestChild& child, const std::vector<PageRange>& ranges) {
    EXPECT_TRUE(arm_write_protect(uffd_.get(), ranges).empty());
    forget_old_protection(uffd_.get(), child.pagemap_fd(), ranges);
  }
  // Scans and remembers what was found as sent.
  ScanFindings scan(const std::vector<TrackedArea>& areas, ScanMode mode = ScanMode::kRunning) {
    ScanFindings findings;
    tracker_->scan(areas, mode, sent_, findings);
    findings.zero.for_each_run([&](const PageRange& run) { sent_.clear(run); });
    findings.data.for_each_run([&](const PageRange& run) { sent_.set(run); });
    return findings;
  }

  TestChild child_;
  UniqueFd uffd_;
  std::unique_ptr<WriteProtectTracker> tracker_;
  PageBitmap sent_;
};

INSTANTIATE_TEST_SUITE_P(Kernels, WriteProtectTrackerTest, ::testing::Bool(),
                         [](const auto& info) { return info.param ? "AbsentIsWritten" : "Any"; });

TEST_P(WriteProtectTrackerTest, TellsEachWriteOnce) {
  const PageRange memory = pages(0, 2048);
  child_.map(memory);
  child_.fill(pages(0, 1000), 1);
  watch(child_, {memory});
  EXPECT_EQ(runs_of(scan({{memory, AreaKind::kAnonymous, true}}).data), Runs{pages(0, 1000)});
  EXPECT_TRUE(scan({{memory}}).data.empty());
  child_.fill(pages(7, 1), 2);
  child_.fill(pages(1500, 2), 3);  // was not there before
  EXPECT_EQ(runs_of(scan({{memory}}).data), (Runs{pages(7, 1), pages(1500, 2)}));
  EXPECT_TRUE(scan({{memory}}).data.empty());
  child_.fill(pages(1501, 1), 4);
  EXPECT_EQ(runs_of(scan({{memory}}, ScanMode::kFinal).data), Runs{pages(1501, 1)});
  EXPECT_EQ(runs_of(scan({{memory}}, ScanMode::kFinal).data), Runs{pages(1501, 1)});  // not armed
}

TEST_P(WriteProtectTrackerTest, FindsPagesGivenBack) {
  for (const bool huge : {false, true}) {
    TestChild child;
    const PageRange memory = pages(0, 2048);
    child.map(memory);
    if (huge) child.use_huge_pages(memory);
    child.fill(pages(0, 1536), 1);
    sent_.clear();
    watch(child, {memory});
    const ScanFindings first = scan({{memory, AreaKind::kAnonymous, true}});
    EXPECT_TRUE(first.data.contains(pages(1535, 1).start));
    child.zap(pages(10, 3));
    child.zap(pages(512, 512));  // a whole page table
    child.zap(pages(1800, 10));  // never there
    const ScanFindings second = scan({{memory}});
    EXPECT_TRUE(second.zero.contains(pages(12, 1).start));
    EXPECT_TRUE(second.zero.any_in(pages(512, 1)) && second.zero.contains(pages(1023, 1).start));
    EXPECT_FALSE(second.zero.any_in(pages(13, 499)));
    EXPECT_TRUE(runs_of(scan({{memory}}).zero).empty());  // told once
    child.fill(pages(600, 1), 5);
    child.zap(pages(20, 1));
    const ScanFindings last = scan({{memory}}, ScanMode::kFinal);
    EXPECT_TRUE(last.data.contains(pages(600, 1).start));
    EXPECT_EQ(runs_of(last.zero), Runs{pages(20, 1)});
  }
}

TEST_P(WriteProtectTrackerTest, MovedAndNewMappingsAreUntracked) {
  const PageRange memory = pages(0, 64);
  const PageRange moved = pages(100, 64);
  child_.map(memory);
  child_.fill(memory, 1);
  watch(child_, {memory});
  scan({{memory, AreaKind::kAnonymous, true}});
  child_.move(memory, moved.start);
  child_.map(memory);
  child_.fill(pages(5, 1), 2);
  const ScanFindings found = scan({{memory}, {moved, AreaKind::kAnonymous, true}});
  EXPECT_EQ(found.untracked, (Runs{memory, moved}));
  EXPECT_EQ(runs_of(found.data), (Runs{pages(5, 1), moved}));
  EXPECT_EQ(runs_of(found.zero), (Runs{pages(0, 5), pages(6, 58)}));
  arm(child_, found.untracked);
  // Whatever was written before the arming is told again, then only what is written after.
  EXPECT_EQ(runs_of(scan({{memory}, {moved}}).data), (Runs{pages(5, 1), moved}));
  EXPECT_TRUE(scan({{memory}, {moved}}).data.empty());
  child_.fill(pages(130, 1), 3);
  EXPECT_EQ(runs_of(scan({{memory}, {moved}}).data), Runs{pages(130, 1)});
}

// A moved range that comes to lie where it merges with its neighbour takes the neighbour's
// registration away with its own, and leaves the neighbour's pages protected.
TEST_P(WriteProtectTrackerTest, ANeighbourOfAMovedMappingIsUntrackedToo) {
  for (const ScanMode mode : {ScanMode::kRunning, ScanMode::kFinal}) {
    TestChild child;
    const PageRange memory = pages(0, 32);
    child.map(memory);
    child.fill(memory, 1);
    sent_.clear();
    watch(child, {memory});
    scan({{memory, AreaKind::kAnonymous, true}});
    child.move(pages(16, 16), pages(100, 1).start);
    arm(child, {pages(100, 16)});
    child.move(pages(100, 16), pages(16, 1).start);
    child.fill(pages(3, 1), 2);
    EXPECT_TRUE(scan({{memory}}, mode).data.contains(pages(3, 1).start));
    if (mode == ScanMode::kFinal) break;
    arm(child, {memory});
    scan({{memory}});
    EXPECT_TRUE(scan({{memory}}).data.empty());
    child.fill(pages(4, 1), 3);
    EXPECT_EQ(runs_of(scan({{memory}}, ScanMode::kRunning).data), Runs{pages(4, 1)});
    child.fill(pages(5, 1), 3);
    EXPECT_EQ(runs_of(scan({{memory}}, ScanMode::kFinal).data), Runs{pages(5, 1)});
  }
}

TEST_P(WriteProtectTrackerTest, AMappingReplacedBeforeTheEndIsNoticed) {
  const PageRange memory = pages(0, 1024);
  child_.map(memory);
  child_.fill(memory, 1);
  watch(child_, {memory});
  scan({{memory, AreaKind::kAnonymous, true}});
  child_.unmap(memory);
  child_.map(memory);
  child_.fill(pages(9, 1), 2);
  const ScanFindings last = scan({{memory}}, ScanMode::kFinal);
  EXPECT_EQ(runs_of(last.data), Runs{pages(9, 1)});
  EXPECT_EQ(runs_of(last.zero), (Runs{pages(0, 9), pages(10, 1014)}));
}

TEST_P(WriteProtectTrackerTest, SharedMemoryIsReadAgain) {
  const PageRange memory = pages(0, 128);
  child_.map_shared(memory);
  child_.fill(pages(0, 64), 1);
  watch(child_, {memory});
  scan({{memory, AreaKind::kSharedAnonymous, true}});
  child_.zap(pages(3, 2));
  child_.fill(pages(50, 1), 2);
  const ScanFindings found = scan({{memory, AreaKind::kSharedAnonymous}});
  EXPECT_TRUE(found.zero.empty());
  EXPECT_TRUE(found.data.contains(pages(50, 1).start));
  // The kernel may remember that the pages given back were not written: both is right.
  found.data.for_each_run(
      [&](const PageRange& run) { EXPECT_TRUE(run == pages(50, 1) || run == pages(3, 2)); });
}

TEST_P(WriteProtectTrackerTest, OfAFileOnlyCopiesAreData) {
  const UniqueFd file(memfd_create("godwit-test", MFD_CLOEXEC));
  const std::vector<char> content(256 * kPageSize, 'x');
  ASSERT_GT(write(file.get(), content.data(), content.size()), 0);
  TestChild child(file.get());
  const PageRange memory = pages(0, 256);
  child.map_file(memory);
  child.read(memory);
  child.fill(pages(10, 4), 1);
  watch(child, {memory});
  EXPECT_EQ(runs_of(scan({{memory, AreaKind::kPrivateFile, true}}).data), Runs{pages(10, 4)});
  EXPECT_TRUE(scan({{memory, AreaKind::kPrivateFile}}).data.empty());
  child.fill(pages(100, 1), 2);
  child.zap(pages(11, 1));
  EXPECT_EQ(runs_of(scan({{memory, AreaKind::kPrivateFile}}).data),
            (Runs{pages(11, 1), pages(100, 1)}));
  child.fill(pages(101, 1), 2);
  const ScanFindings last = scan({{memory, AreaKind::kPrivateFile}}, ScanMode::kFinal);
  EXPECT_TRUE(last.data.contains(pages(101, 1).start));
  EXPECT_FALSE(last.data.contains(pages(100, 1).start));
  EXPECT_TRUE(last.zero.empty());
}

TEST_P(WriteProtectTrackerTest, AFinalScanOfManyWrites) {
  const PageRange memory = pages(0, 4096);
  child_.map(memory);
  child_.fill(memory, 1);
  watch(child_, {memory});
  scan({{memory, AreaKind::kAnonymous, true}});
  for (std::uint64_t page = 0; page < 4096; page += 3) child_.fill(pages(page, 1), page);
  child_.zap(pages(301, 1));
  const ScanFindings last = scan({{memory}}, ScanMode::kFinal);
  EXPECT_EQ(last.data.count(), 1366u);
  EXPECT_EQ(runs_of(last.zero), Runs{pages(301, 1)});
}

// Large enough to be walked by several threads.
TEST_P(WriteProtectTrackerTest, AFinalScanOfMuch) {
  constexpr std::uint64_t kPages = (1ULL << 30) / kPageSize;
  constexpr std::uint64_t kStride = 1021;
  const PageRange memory = pages(0, kPages);
  child_.map(memory);
  for (std::uint64_t page = 0; page < kPages; page += kStride) child_.fill(pages(page, 1), 1);
  watch(child_, {memory});
  scan({{memory, AreaKind::kAnonymous, true}});
  scan({{memory}});
  std::uint64_t written = 0;
  for (std::uint64_t page = 0; page < kPages; page += 2 * kStride, ++written) {
    child_.fill(pages(page, 1), 2);
  }
  child_.zap(pages(kStride, 1));
  const ScanFindings last = scan({{memory}}, ScanMode::kFinal);
  EXPECT_EQ(last.data.count(), written);
  EXPECT_EQ(runs_of(last.zero), Runs{pages(kStride, 1)});
}

TEST_P(WriteProtectTrackerTest, GuardPagesAreNotData) {
  const PageRange memory = pages(0, 64);
  child_.map(memory);
  child_.fill(memory, 1);
  watch(child_, {memory});
  scan({{memory, AreaKind::kAnonymous, true}});
  try {
    child_.guard(pages(8, 4));
  } catch (const Error& error) {
    ASSERT_EQ(error.code(), EINVAL) << error.what();
    GTEST_SKIP() << "this kernel has no guard pages";
  }
  child_.fill(pages(20, 1), 2);
  const ScanFindings running = scan({{memory}});
  EXPECT_EQ(runs_of(running.data), Runs{pages(20, 1)});
  EXPECT_EQ(runs_of(running.zero), Runs{pages(8, 4)});
  const ScanFindings last = scan({{memory}}, ScanMode::kFinal);
  EXPECT_TRUE(last.data.empty());
  EXPECT_TRUE(last.zero.empty());
}

TEST_P(WriteProtectTrackerTest, AReservationCostsNothing) {
  const PageRange memory{kBase, kBase + (256ULL << 30)};
  child_.map(memory);
  child_.fill(pages(1000, 1), 1);
  watch(child_, {memory});
  const auto tables_kib = [&] {
    const std::string text = read_file("/proc/" + std::to_string(child_.pid()) + "/status");
    return std::stoull(text.substr(text.find("VmPTE:") + 6));
  };
  const std::uint64_t before_kib = tables_kib();
  const std::int64_t start_ns = monotonic_ns();
  EXPECT_EQ(runs_of(scan({{memory, AreaKind::kAnonymous, true}}).data), Runs{pages(1000, 1)});
  EXPECT_TRUE(scan({{memory}}).data.empty());
  EXPECT_TRUE(scan({{memory}}, ScanMode::kFinal).data.empty());
  EXPECT_LT(monotonic_ns() - start_ns, 500'000'000);
  EXPECT_LE(tables_kib(), before_kib + 16);
}

std::uint64_t regions_written(int pagemap_fd, const PageRange& range) {
  pagemap::Query query;
  query.all = query.reported = pagemap::kWritten;
  std::vector<pagemap::Region> buffer(64);
  std::uint64_t count = 0;
  pagemap::scan(pagemap_fd, range, query, buffer, [&](const pagemap::Region&) { ++count; });
  return count;
}

// Absent pages between others: nothing of them is left to look at when the task stands, and each
// kind of change is found all the same, in a running round and in the last.
TEST_P(WriteProtectTrackerTest, ScatteredAbsentPages) {
  const PageRange memory = pages(0, 4096);
  child_.map(memory);
  for (std::uint64_t i = 0; i < 2048; i += 2) child_.fill(pages(i, 1), 1);
  watch(child_, {memory});
  scan({{memory, AreaKind::kAnonymous, true}});
  EXPECT_TRUE(scan({{memory}}).data.empty());
  EXPECT_LE(regions_written(child_.pagemap_fd(), memory), GetParam() ? 1 : 1025);
  for (const ScanMode mode : {ScanMode::kRunning, ScanMode::kRunning, ScanMode::kFinal}) {
    child_.fill(pages(101, 1), 2);   // was absent
    child_.fill(pages(200, 1), 3);   // was there
    child_.zap(pages(302, 1));       // was there, is absent
    child_.zap(pages(501, 1));       // was absent
    child_.fill(pages(3000, 1), 4);  // without neighbours
    const ScanFindings findings = scan({{memory}}, mode);
    EXPECT_EQ(runs_of(findings.data), (Runs{pages(101, 1), pages(200, 1), pages(3000, 1)}));
    EXPECT_EQ(runs_of(findings.zero), Runs{pages(302, 1)});
    if (mode == ScanMode::kFinal) break;  // which arms nothing
    child_.zap(pages(101, 1));
    child_.fill(pages(302, 1), 5);
    child_.zap(pages(3000, 1));
    const ScanFindings back = scan({{memory}}, ScanMode::kRunning);
    EXPECT_EQ(runs_of(back.data), Runs{pages(302, 1)});
    EXPECT_EQ(runs_of(back.zero), (Runs{pages(101, 1), pages(3000, 1)}));
  }
}

TEST_P(WriteProtectTrackerTest, ManyAreasSideBySide) {
  const PageRange memory = pages(0, 4096);
  child_.map(memory);
  child_.fill(memory, 1);
  watch(child_, {memory});
  std::vector<TrackedArea> areas;
  for (std::uint64_t page = 0; page < 4096; page += 4) {  // three pages of every four
    areas.push_back({pages(page, page % 8 == 0 ? 4 : 2), AreaKind::kAnonymous, true});
  }
  EXPECT_EQ(scan(areas).data.count(), 4096u / 8 * 6);
  for (TrackedArea& area : areas) area.fresh = false;
  EXPECT_TRUE(scan(areas).data.empty());
  child_.fill(pages(1, 6), 2);  // pages 6 and 7 belong to no area
  EXPECT_EQ(runs_of(scan(areas, ScanMode::kFinal).data), Runs{pages(1, 5)});
}

TEST(TrackerProbe, NamesAndChoice) {
  for (const TrackerKind kind : {TrackerKind::kWriteProtect, TrackerKind::kSoftDirty}) {
    EXPECT_EQ(tracker_by_name(tracker_name(kind)), kind);
  }
  EXPECT_EQ(tracker_by_name("hope"), std::nullopt);
  if (probe_write_protect()) {
    EXPECT_EQ(probe_tracker(), TrackerKind::kWriteProtect);
  } else if (probe_soft_dirty()) {
    EXPECT_EQ(probe_tracker(), TrackerKind::kSoftDirty);
  }
}

}  // namespace
}  // namespace godwit
