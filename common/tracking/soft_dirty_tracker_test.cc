// Words of a made-up pagemap: what this kernel's own soft-dirty bits say does not matter here.
#include "common/tracking/soft_dirty_tracker.h"

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <vector>

#include "common/base/error.h"
#include "common/base/unique_fd.h"

namespace godwit {
namespace {

constexpr Address kBase = 0x1000'0000;

constexpr std::uint64_t kPresent = 1ULL << 63;
constexpr std::uint64_t kSwapped = 1ULL << 62;
constexpr std::uint64_t kFile = 1ULL << 61;
constexpr std::uint64_t kGuard = 1ULL << 58;
constexpr std::uint64_t kDirty = 1ULL << 55;
constexpr std::uint64_t kFrame = 0x1234;  // a page frame number, which decides nothing

PageRange pages(std::uint64_t first, std::uint64_t count) {
  return {kBase + first * kPageSize, kBase + (first + count) * kPageSize};
}

std::vector<PageRange> runs_of(const PageBitmap& bitmap) {
  std::vector<PageRange> runs;
  bitmap.for_each_run([&](const PageRange& run) { runs.push_back(run); });
  return runs;
}

using Runs = std::vector<PageRange>;

ScanFindings classify_all(const std::vector<std::uint64_t>& bits, AreaKind kind, bool fresh,
                          const PageBitmap& sent = {}) {
  std::vector<pagemap::Word> words;
  for (const std::uint64_t word : bits) words.push_back({word});
  ScanFindings findings;
  PagePlaces places;
  for (std::size_t page = 0; page < words.size(); ++page) {
    places.exchange(kBase + page * kPageSize, static_cast<std::uint32_t>(words[page].place()));
  }
  classify_words(kBase, words, {pages(0, words.size()), kind, fresh}, sent, {}, places, findings);
  return findings;
}

TEST(SoftDirtyWords, FirstScanTakesWhatIsThere) {
  const ScanFindings found = classify_all(
      {0, kPresent | kFrame, kPresent | kDirty, kSwapped | kFrame, kDirty, kGuard | kSwapped},
      AreaKind::kAnonymous, true);
  EXPECT_EQ(runs_of(found.data), Runs{pages(1, 3)});
  EXPECT_TRUE(found.zero.empty());
}

TEST(SoftDirtyWords, LaterScansTakeWhatWasWritten) {
  const ScanFindings found =
      classify_all({kPresent, kPresent | kDirty, kSwapped | kDirty, kSwapped, kPresent | kDirty, 0},
                   AreaKind::kAnonymous, false);
  EXPECT_EQ(runs_of(found.data), (Runs{pages(1, 2), pages(4, 1)}));
  EXPECT_TRUE(found.zero.empty());
}

TEST(SoftDirtyWords, PagesGivenBackAreFoundByTheirAbsence) {
  PageBitmap sent;
  sent.set(pages(0, 3));
  const std::vector<std::uint64_t> words{0, kDirty, kGuard | kSwapped, kDirty, kPresent};
  const ScanFindings anonymous = classify_all(words, AreaKind::kAnonymous, false, sent);
  EXPECT_EQ(runs_of(anonymous.zero), Runs{pages(0, 3)});  // page 3 was never sent
  EXPECT_TRUE(anonymous.data.empty());
  const ScanFindings shared = classify_all(words, AreaKind::kSharedAnonymous, false, sent);
  EXPECT_EQ(runs_of(shared.data), (Runs{pages(0, 3), pages(4, 1)}));
  EXPECT_TRUE(shared.zero.empty());
}

TEST(SoftDirtyWords, OfAFileOnlyCopiesCount) {
  PageBitmap sent;
  sent.set(pages(4, 3));
  const std::vector<std::uint64_t> words{
      kPresent | kFile, kPresent | kFile | kDirty, kPresent | kDirty,
      kPresent,         kPresent | kFile | kDirty, 0,
      kPresent};
  const ScanFindings first = classify_all(words, AreaKind::kPrivateFile, true);
  EXPECT_EQ(runs_of(first.data), (Runs{pages(2, 2), pages(6, 1)}));
  // Pages 4 and 5 were copies once: the file's content shows again and has to be sent.
  const ScanFindings later = classify_all(words, AreaKind::kPrivateFile, false, sent);
  EXPECT_EQ(runs_of(later.data), (Runs{pages(2, 1), pages(4, 2)}));
  EXPECT_TRUE(later.zero.empty());
}

TEST(SoftDirtyWords, APageInAnotherPlaceWasWritten) {
  PagePlaces places;
  PageBitmap sent;
  sent.set(pages(0, 4));
  Runs words_are_zero;
  const auto scan = [&](const std::vector<std::uint64_t>& bits) {
    std::vector<pagemap::Word> words;
    for (const std::uint64_t word : bits) words.push_back({word});
    ScanFindings findings;
    classify_words(kBase, words, {pages(0, words.size()), AreaKind::kAnonymous}, sent,
                   ZeroFrames{.page = 7}, places, findings);
    EXPECT_EQ(runs_of(findings.zero), words_are_zero);
    return runs_of(findings.data);
  };
  scan({kPresent | 1, kPresent | 2, kPresent | 3, kPresent | 4});
  EXPECT_EQ(scan({kPresent | 1, kPresent | 2, kPresent | 3, kPresent | 4}), Runs{});
  // Given back and read: the page of zeros. Swapped: another place, which says nothing else.
  EXPECT_EQ(scan({kPresent | 1, kPresent | 9, kSwapped | 3 << 5, kPresent | 9}), Runs{pages(1, 3)});
  EXPECT_EQ(scan({kPresent | 1, kPresent | 9, kSwapped | 3 << 5, kPresent | 9}), Runs{});
  // Gone meanwhile, and another page since.
  words_are_zero = {pages(1, 2)};
  EXPECT_EQ(scan({kPresent | 1, 0, 0, kPresent | 9}), Runs{});
  words_are_zero = {pages(2, 1)};
  EXPECT_EQ(scan({kPresent | 1, kPresent | 9, 0, kPresent | 9}), Runs{pages(1, 1)});
  // What was given back and is read shows the page of zeros, whatever was there before.
  EXPECT_EQ(scan({kPresent | 1, kPresent | 9, kPresent | 7, kPresent | 9}), Runs{});
  EXPECT_EQ(scan({kPresent | 1, kPresent | 9, kPresent | 7, kPresent | 9}), Runs{});
}

TEST(SoftDirtyWords, OfSharedMemoryTheContentDecides) {
  const ScanFindings found =
      classify_all({kPresent | kFrame, 0, kPresent | kDirty}, AreaKind::kSharedAnonymous, false);
  EXPECT_EQ(runs_of(found.data), (Runs{pages(0, 1), pages(2, 1)}));
}

TEST(SoftDirtyTracker, ReadsInPiecesAndClears) {
  // A file that looks like a pagemap: the words of 70,000 pages, more than are read at once.
  const UniqueFd pagemap_fd(memfd_create("pagemap", MFD_CLOEXEC));
  const UniqueFd clear_refs(memfd_create("clear_refs", MFD_CLOEXEC));
  const std::uint64_t count = 70000;
  std::vector<std::uint64_t> words(count, kPresent);
  for (const std::uint64_t page : {0, 32767, 32768, 65536, 69999}) words[page] |= kDirty;
  ASSERT_GT(pwrite(pagemap_fd.get(), words.data(), words.size() * 8, kBase / kPageSize * 8), 0);
  SoftDirtyTracker tracker(pagemap_fd.get(), clear_refs.get());
  EXPECT_TRUE(tracker.needs_stop_to_scan());
  const std::vector<TrackedArea> areas{{pages(0, 32768)}, {pages(32768, 10)}, {pages(65000, 9000)}};
  ScanFindings findings;
  tracker.scan(areas, ScanMode::kFinal, {}, findings);
  EXPECT_EQ(runs_of(findings.data),
            (Runs{pages(0, 1), pages(32767, 2), pages(65536, 1), pages(69999, 1)}));
  char cleared = 0;
  EXPECT_EQ(pread(clear_refs.get(), &cleared, 1, 0), 0);
  tracker.scan(areas, ScanMode::kRunning, {}, findings);
  EXPECT_EQ(pread(clear_refs.get(), &cleared, 1, 0), 1);
  EXPECT_EQ(cleared, '4');
}

}  // namespace
}  // namespace godwit
