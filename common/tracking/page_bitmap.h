// A set of pages of an address space: one bit a page, in blocks that exist only where bits are set
// (32 KiB a GiB of touched memory).
#pragma once

#include <array>
#include <bit>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>

#include "common/base/page_range.h"

namespace godwit {

class PageBitmap {
 public:
  using RunSink = std::function<void(const PageRange&)>;

  void set(const PageRange& range);
  void clear(const PageRange& range);
  void clear() { blocks_.clear(); }
  bool contains(Address address) const;
  bool any_in(const PageRange& range) const;
  bool empty() const { return blocks_.empty(); }
  std::uint64_t count() const;

  // Maximal runs of set pages, in order; `sink` may not change this set.
  void for_each_run(const PageRange& range, const RunSink& sink) const;
  void for_each_run(const RunSink& sink) const;

  // The first set page of the range.
  std::optional<Address> find_first(const PageRange& range) const;

  // The length in bytes of the run of pages from `range.start` on that are all set or all not set;
  // `*is_set` says which. At most the whole range.
  std::uint64_t uniform_bytes(const PageRange& range, bool* is_set) const;

 private:
  static constexpr std::uint64_t kBlockPages = 16384;
  static constexpr std::uint64_t kBlockBytes = kBlockPages * kPageSize;
  using Block = std::array<std::uint64_t, kBlockPages / 64>;

  // Calls body(word, mask, address of bit 0) for the words of [start, end) inside one block.
  template <typename Body>
  static void for_words(Block& block, Address block_start, Address start, Address end, Body body);

  std::map<std::uint64_t, std::unique_ptr<Block>> blocks_;  // by address / kBlockBytes; never all 0
};

}  // namespace godwit
