// Half-open ranges of whole pages in an address space.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>

namespace godwit {

using Address = std::uint64_t;

inline constexpr std::uint64_t kPageSize = 4096;

// [start, end) in bytes, both multiples of the page size, start < end. What comes from outside goes
// through make(), which refuses anything else.
struct PageRange {
  Address start = 0;
  Address end = 0;

  static std::optional<PageRange> make(Address start, Address end) {
    if (start >= end || start % kPageSize != 0 || end % kPageSize != 0) return std::nullopt;
    return PageRange{start, end};
  }
  std::uint64_t bytes() const { return end - start; }
  std::uint64_t pages() const { return bytes() / kPageSize; }
  bool contains(Address address) const { return address >= start && address < end; }
  bool overlaps(const PageRange& other) const { return start < other.end && other.start < end; }
  friend bool operator==(const PageRange&, const PageRange&) = default;
};

}  // namespace godwit
