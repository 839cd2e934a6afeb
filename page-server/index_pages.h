// Pages that lead to others: the tables of hash maps, the inner nodes of trees, arrays of pointers.
// Whoever looks anything up touches one of them first, and most programs have few of them beside
// what they lead to. The kernel does not tell what is read, so they are known by their content:
// nearly nothing but addresses of the process's own memory, and zeros.
//
// Thread: any.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "common/base/page_range.h"
#include "common/tracking/dirty_tracker.h"
#include "common/tracking/page_bitmap.h"

namespace godwit {

// One page of the process; false: it cannot be read just now.
using ReadPage = std::function<bool(Address page, std::span<std::byte> to)>;

// Of the private anonymous ones of `candidates`, some pages at a time that lie together and most of
// which lead to others; those of which most do first, `pages_max` in all. It is a guess, from few
// samples: not more than 32,768 pages are read.
std::vector<PageRange> find_index_pages(std::span<const TrackedArea> areas,
                                        const PageBitmap& candidates, std::uint64_t pages_max,
                                        const ReadPage& read);

}  // namespace godwit
