#include "common/tracking/soft_dirty_tracker.h"

#include <unistd.h>

#include <algorithm>

#include "common/base/error.h"

namespace godwit {
namespace {

constexpr std::size_t kWordsAtOnce = 32768;

// The bits that decide; pages with equal ones are handled together.
std::uint64_t key_of(const pagemap::Word& word) {
  return static_cast<std::uint64_t>(word.present()) |
         static_cast<std::uint64_t>(word.swapped()) << 1 |
         static_cast<std::uint64_t>(word.file()) << 2 |
         static_cast<std::uint64_t>(word.soft_dirty()) << 3 |
         static_cast<std::uint64_t>(word.guard()) << 4;
}

}  // namespace

void classify_words(Address start, std::span<const pagemap::Word> words, const TrackedArea& area,
                    const PageBitmap& sent, ScanFindings& findings) {
  std::size_t first = 0;
  while (first < words.size()) {
    const std::uint64_t key = key_of(words[first]);
    std::size_t end = first + 1;
    while (end < words.size() && key_of(words[end]) == key) ++end;
    const pagemap::Word& word = words[first];
    const PageState state{.written = word.soft_dirty(),
                          .present = word.present(),
                          .swapped = word.swapped(),
                          .file = word.file(),
                          .guard = word.guard()};
    classify(PageRange{start + first * kPageSize, start + end * kPageSize}, state, area.kind,
             area.fresh, sent, findings);
    first = end;
  }
}

SoftDirtyTracker::SoftDirtyTracker(int pagemap_fd, int clear_refs_fd)
    : pagemap_fd_(pagemap_fd), clear_refs_fd_(clear_refs_fd), words_(kWordsAtOnce) {}

void SoftDirtyTracker::scan(std::span<const TrackedArea> areas, ScanMode mode,
                            const PageBitmap& sent, ScanFindings& findings) {
  for (const TrackedArea& area : areas) {
    for (Address at = area.range.start; at < area.range.end;) {
      const std::uint64_t pages =
          std::min<std::uint64_t>(words_.size(), (area.range.end - at) / kPageSize);
      const std::span<pagemap::Word> words = std::span(words_).first(pages);
      pagemap::read_words(pagemap_fd_, at, words);
      classify_words(at, words, area, sent, findings);
      at += pages * kPageSize;
    }
  }
  if (mode == ScanMode::kRunning && pwrite(clear_refs_fd_, "4", 1, 0) != 1) {
    throw_system("clear the soft-dirty bits");
  }
}

void SoftDirtyTracker::find_absent(const PageRange& range, PageBitmap& absent) {
  for (Address at = range.start; at < range.end;) {
    const std::uint64_t pages =
        std::min<std::uint64_t>(words_.size(), (range.end - at) / kPageSize);
    const std::span<pagemap::Word> words = std::span(words_).first(pages);
    pagemap::read_words(pagemap_fd_, at, words);
    for (const pagemap::Word& word : words) {
      if (!word.present() && !word.swapped()) absent.set(PageRange{at, at + kPageSize});
      at += kPageSize;
    }
  }
}

}  // namespace godwit
