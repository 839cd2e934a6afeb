#include "page-server/index_pages.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <limits>

namespace godwit {
namespace {

constexpr std::uint64_t kTogetherPages = 256;
constexpr std::uint64_t kSamplesEach = 8;
constexpr std::uint64_t kSamplesMax = 32768;
constexpr std::uint64_t kMostOfSamples = 6;
constexpr std::size_t kWords = kPageSize / sizeof(std::uint64_t);
constexpr std::size_t kAddressesMin = kWords / 8;
constexpr std::size_t kOthersMax = kWords / 16;

struct Together {
  PageRange range;
  std::uint64_t leading = 0;  // of the samples
};

bool leads_to_others(std::span<const std::uint64_t, kWords> words, const PageRange& memory) {
  std::size_t addresses = 0;
  std::size_t others = 0;
  for (const std::uint64_t word : words) {
    if (word == 0) continue;
    if (memory.contains(word)) {
      ++addresses;
    } else if (++others > kOthersMax) {
      return false;
    }
  }
  return addresses >= kAddressesMin;
}

// From the first to the last of them: what lies between belongs to nobody whose address looks like
// one of theirs.
PageRange extent_of(std::span<const TrackedArea> areas) {
  PageRange extent{std::numeric_limits<Address>::max(), 0};
  for (const TrackedArea& area : areas) {
    extent.start = std::min(extent.start, area.range.start);
    extent.end = std::max(extent.end, area.range.end);
  }
  return extent;
}

// What lies together, of the candidates; more of it at a time when there is much.
std::vector<Together> pieces_of(std::span<const TrackedArea> areas, const PageBitmap& candidates) {
  std::uint64_t pages = 0;
  for (const TrackedArea& area : areas) pages += area.range.pages();
  const std::uint64_t rounds = pages / (kSamplesMax / kSamplesEach * kTogetherPages) + 1;
  const std::uint64_t step = rounds * kTogetherPages * kPageSize;
  std::vector<Together> pieces;
  for (const TrackedArea& area : areas) {
    if (area.kind != AreaKind::kAnonymous) continue;
    for (Address at = area.range.start; at < area.range.end;) {
      const auto first = candidates.find_first({at, area.range.end});
      if (!first) break;
      const PageRange piece{*first, std::min(area.range.end, *first + step)};
      pieces.push_back({piece});
      at = piece.end;
    }
  }
  return pieces;
}

}  // namespace

std::vector<PageRange> find_index_pages(std::span<const TrackedArea> areas,
                                        const PageBitmap& candidates, std::uint64_t pages_max,
                                        const ReadPage& read) {
  const PageRange memory = extent_of(areas);
  std::vector<Together> pieces = pieces_of(areas, candidates);
  std::array<std::uint64_t, kWords> words;  // NOLINT(*-member-init): read into
  for (Together& piece : pieces) {
    for (std::uint64_t i = 0; i < kSamplesEach; ++i) {
      if (piece.leading + (kSamplesEach - i) < kMostOfSamples)
        break;  // it will not be most of them
      const Address at = piece.range.start + piece.range.pages() * i / kSamplesEach * kPageSize;
      if (!candidates.contains(at) || !read(at, std::as_writable_bytes(std::span(words)))) continue;
      if (leads_to_others(words, memory)) ++piece.leading;
    }
  }
  std::erase_if(pieces, [](const Together& piece) { return piece.leading < kMostOfSamples; });
  std::ranges::stable_sort(pieces, std::greater{}, &Together::leading);
  std::vector<PageRange> found;
  for (const Together& piece : pieces) {
    candidates.for_each_run(piece.range, [&](const PageRange& run) {
      const std::uint64_t pages = std::min(run.pages(), pages_max);
      pages_max -= pages;
      if (pages > 0) found.push_back({run.start, run.start + pages * kPageSize});
    });
  }
  return found;
}

}  // namespace godwit
