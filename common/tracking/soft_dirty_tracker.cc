#include "common/tracking/soft_dirty_tracker.h"

#include <unistd.h>

#include <algorithm>

#include "common/base/error.h"

namespace godwit {
namespace {

constexpr std::size_t kWordsAtOnce = 32768;

PageState state_of(Address page, const pagemap::Word& word, AreaKind kind, const ZeroFrames& zeros,
                   PagePlaces& places) {
  bool written = true;
  if (kind != AreaKind::kSharedAnonymous) {
    const auto place = static_cast<std::uint32_t>(word.place());
    const bool moved = places.exchange(page, place) != place;
    written = word.soft_dirty() || moved;
  }
  return {.written = written,
          .present = word.present(),
          .swapped = word.swapped(),
          .file = word.file(),
          .zero_page = zeros.contains(word),
          .guard = word.guard()};
}

}  // namespace

void classify_words(Address start, std::span<const pagemap::Word> words, const TrackedArea& area,
                    const PageBitmap& sent, const ZeroFrames& zeros, PagePlaces& places,
                    ScanFindings& findings) {
  // Pages in the same state are handled together. Each is looked at once: that notes its place.
  PageState state;
  std::size_t first = 0;
  for (std::size_t page = 0; page <= words.size(); ++page) {
    PageState next;
    if (page < words.size()) {
      next = state_of(start + page * kPageSize, words[page], area.kind, zeros, places);
      if (page > first && next == state) continue;
    }
    if (page > first) {
      classify(PageRange{start + first * kPageSize, start + page * kPageSize}, state, area.kind,
               area.fresh, sent, findings);
    }
    first = page;
    state = next;
  }
}

SoftDirtyTracker::SoftDirtyTracker(int pagemap_fd, int clear_refs_fd, ZeroFrames zeros)
    : pagemap_fd_(pagemap_fd), clear_refs_fd_(clear_refs_fd), words_(kWordsAtOnce), zeros_(zeros) {}

void SoftDirtyTracker::scan(std::span<const TrackedArea> areas, ScanMode mode,
                            const PageBitmap& sent, ScanFindings& findings) {
  for (const TrackedArea& area : areas) {
    for (Address at = area.range.start; at < area.range.end;) {
      const std::uint64_t pages =
          std::min<std::uint64_t>(words_.size(), (area.range.end - at) / kPageSize);
      const std::span<pagemap::Word> words = std::span(words_).first(pages);
      pagemap::read_words(pagemap_fd_, at, words);
      classify_words(at, words, area, sent, zeros_, places_, findings);
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
