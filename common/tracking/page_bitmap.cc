#include "common/tracking/page_bitmap.h"

#include <algorithm>
#include <limits>

namespace godwit {

template <typename Body>
void PageBitmap::for_words(Block& block, Address block_start, Address start, Address end,
                           Body body) {
  std::uint64_t page = (start - block_start) / kPageSize;
  const std::uint64_t last = (end - block_start) / kPageSize;
  while (page < last) {
    const std::uint64_t in_word = page % 64;
    const std::uint64_t bits = std::min<std::uint64_t>(64 - in_word, last - page);
    const std::uint64_t mask = (bits == 64 ? ~0ULL : (1ULL << bits) - 1) << in_word;
    if (!body(block[page / 64], mask, block_start + (page - in_word) * kPageSize)) return;
    page += bits;
  }
}

void PageBitmap::set(const PageRange& range) {
  for (Address at = range.start; at < range.end;) {
    const std::uint64_t number = at / kBlockBytes;
    const Address start = number * kBlockBytes;
    const Address end = std::min(range.end, start + kBlockBytes);
    std::unique_ptr<Block>& block = blocks_[number];
    if (block == nullptr) block = std::make_unique<Block>();
    for_words(*block, start, at, end, [](std::uint64_t& word, std::uint64_t mask, Address) {
      word |= mask;
      return true;
    });
    at = end;
  }
}

void PageBitmap::clear(const PageRange& range) {
  auto found = blocks_.lower_bound(range.start / kBlockBytes);
  while (found != blocks_.end() && found->first * kBlockBytes < range.end) {
    const Address start = found->first * kBlockBytes;
    Block& block = *found->second;
    for_words(block, start, std::max(start, range.start), std::min(range.end, start + kBlockBytes),
              [](std::uint64_t& word, std::uint64_t mask, Address) {
                word &= ~mask;
                return true;
              });
    const bool blank = std::all_of(block.begin(), block.end(), [](auto word) { return word == 0; });
    found = blank ? blocks_.erase(found) : std::next(found);
  }
}

bool PageBitmap::contains(Address address) const {
  const auto found = blocks_.find(address / kBlockBytes);
  if (found == blocks_.end()) return false;
  const std::uint64_t page = address % kBlockBytes / kPageSize;
  return ((*found->second)[page / 64] >> page % 64 & 1) != 0;
}

bool PageBitmap::any_in(const PageRange& range) const {
  bool any = false;
  for (auto found = blocks_.lower_bound(range.start / kBlockBytes);
       !any && found != blocks_.end() && found->first * kBlockBytes < range.end; ++found) {
    const Address start = found->first * kBlockBytes;
    for_words(*found->second, start, std::max(start, range.start),
              std::min(range.end, start + kBlockBytes),
              [&](std::uint64_t word, std::uint64_t mask, Address) {
                any = (word & mask) != 0;
                return !any;
              });
  }
  return any;
}

std::uint64_t PageBitmap::count() const {
  std::uint64_t pages = 0;
  for (const auto& [number, block] : blocks_) {
    for (const std::uint64_t word : *block)
      pages += static_cast<std::uint64_t>(std::popcount(word));
  }
  return pages;
}

void PageBitmap::for_each_run(const PageRange& range, const RunSink& sink) const {
  PageRange run{0, 0};
  const auto extend = [&](Address start, Address end) {
    if (run.end == start && run.end != run.start) {
      run.end = end;
      return;
    }
    if (run.end != run.start) sink(run);
    run = PageRange{start, end};
  };
  for (auto found = blocks_.lower_bound(range.start / kBlockBytes);
       found != blocks_.end() && found->first * kBlockBytes < range.end; ++found) {
    const Address start = found->first * kBlockBytes;
    for_words(*found->second, start, std::max(start, range.start),
              std::min(range.end, start + kBlockBytes),
              [&](std::uint64_t word, std::uint64_t mask, Address at) {
                std::uint64_t left = word & mask;
                while (left != 0) {
                  const int first = std::countr_zero(left);
                  const int length = std::countr_one(left >> first);
                  extend(at + static_cast<Address>(first) * kPageSize,
                         at + static_cast<Address>(first + length) * kPageSize);
                  if (first + length >= 64) break;
                  left &= ~0ULL << (first + length);
                }
                return true;
              });
  }
  if (run.end != run.start) sink(run);
}

void PageBitmap::for_each_run(const RunSink& sink) const {
  constexpr Address kTop = std::numeric_limits<Address>::max() / kPageSize * kPageSize;
  for_each_run(PageRange{0, kTop}, sink);
}

std::optional<Address> PageBitmap::find_first(const PageRange& range) const {
  std::optional<Address> first;
  for (auto found = blocks_.lower_bound(range.start / kBlockBytes);
       !first && found != blocks_.end() && found->first * kBlockBytes < range.end; ++found) {
    const Address start = found->first * kBlockBytes;
    for_words(*found->second, start, std::max(start, range.start),
              std::min(range.end, start + kBlockBytes),
              [&](std::uint64_t word, std::uint64_t mask, Address at) {
                if ((word & mask) == 0) return true;
                first = at + static_cast<Address>(std::countr_zero(word & mask)) * kPageSize;
                return false;
              });
  }
  return first;
}

std::uint64_t PageBitmap::uniform_bytes(const PageRange& range, bool* is_set) const {
  *is_set = contains(range.start);
  Address at = range.start;
  while (at < range.end) {
    const std::uint64_t number = at / kBlockBytes;
    const Address block_end = std::min(range.end, (number + 1) * kBlockBytes);
    const auto found = blocks_.find(number);
    if (found == blocks_.end()) {
      if (*is_set) break;
      at = block_end;
      continue;
    }
    bool differs = false;
    for_words(*found->second, number * kBlockBytes, at, block_end,
              [&](std::uint64_t word, std::uint64_t mask, Address word_start) {
                const std::uint64_t other = (*is_set ? ~word : word) & mask;
                differs = other != 0;
                at = differs
                         ? word_start + static_cast<Address>(std::countr_zero(other)) * kPageSize
                         : word_start + 64 * kPageSize;
                return !differs;
              });
    if (differs) break;
    at = block_end;
  }
  return std::min(at, range.end) - range.start;
}

}  // namespace godwit
