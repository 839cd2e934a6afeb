#include "page-server/missing_pages.h"

#include <algorithm>
#include <limits>

namespace godwit {
namespace {

// How far the background stream follows a fault before it goes on where it was.
constexpr std::uint64_t kDetourBytes = 512 << 10;
constexpr std::size_t kDetoursMax = 64;
constexpr Address kTop = std::numeric_limits<Address>::max() / kPageSize * kPageSize;

}  // namespace

void MissingPages::set(std::uint32_t space, const PageBitmap& pages) {
  const std::lock_guard lock(mutex_);
  Space& added = spaces_[space] = Space{};
  pages.for_each_run([&](const PageRange& run) {
    added.named.set(run);
    added.left.set(run);
  });
}

bool MissingPages::names(std::uint32_t space, Address page) const {
  const std::lock_guard lock(mutex_);
  const auto found = spaces_.find(space);
  return found != spaces_.end() && found->second.named.contains(page);
}

std::optional<PageRange> MissingPages::take(Space& space, const PageRange& range,
                                            std::uint64_t pages_max) {
  if (range.start >= range.end) return std::nullopt;
  const auto start = space.left.find_first(range);
  if (!start) return std::nullopt;
  bool is_left = false;
  const PageRange wanted{*start, std::min(range.end, *start + pages_max * kPageSize)};
  const PageRange taken{*start, *start + space.left.uniform_bytes(wanted, &is_left)};
  space.left.clear(taken);
  return taken;
}

std::optional<PageRange> MissingPages::take_of(Space& space, std::deque<PageRange>& ranges,
                                               std::uint64_t pages_max) {
  while (!ranges.empty()) {
    PageRange& range = ranges.front();
    if (const auto taken = take(space, range, pages_max)) {
      range.start = taken->end;
      return taken;
    }
    ranges.pop_front();
  }
  return std::nullopt;
}

void MissingPages::put_first(std::uint32_t space, const PageBitmap& pages) {
  const std::lock_guard lock(mutex_);
  pages.for_each_run([&](const PageRange& run) { spaces_[space].first.push_back(run); });
}

std::optional<PageRange> MissingPages::take_at(std::uint32_t space, Address page,
                                               std::uint64_t pages_max) {
  const std::lock_guard lock(mutex_);
  const auto found = spaces_.find(space);
  if (found == spaces_.end() || !found->second.left.contains(page)) return std::nullopt;
  Space& from = found->second;
  const PageRange taken = *take(from, {page, page + pages_max * kPageSize}, pages_max);
  if (from.detours.size() < kDetoursMax) {
    from.detours.push_back({taken.end, taken.end + kDetourBytes});
  }
  return taken;
}

std::optional<PageRange> MissingPages::take_next(std::uint32_t space, std::uint64_t pages_max) {
  const std::lock_guard lock(mutex_);
  const auto found = spaces_.find(space);
  if (found == spaces_.end()) return std::nullopt;
  Space& from = found->second;
  if (const auto taken = take_of(from, from.detours, pages_max)) return taken;
  if (const auto taken = take_of(from, from.first, pages_max)) return taken;
  const auto taken = take(from, {from.next, kTop}, pages_max);
  if (taken) from.next = taken->end;
  return taken;
}

std::uint64_t MissingPages::left() const {
  const std::lock_guard lock(mutex_);
  std::uint64_t pages = 0;
  for (const auto& [number, space] : spaces_) pages += space.left.count();
  return pages;
}

}  // namespace godwit
