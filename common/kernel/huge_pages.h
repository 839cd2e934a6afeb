// Transparent huge pages (Documentation/admin-guide/mm/transhuge.rst).
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>

#include "common/base/page_range.h"

namespace godwit {

// Size of one; 0 where the kernel has none.
std::uint64_t huge_page_bytes();

// The operator of this host allows none (transparent_hugepage/enabled).
bool huge_pages_are_off();

// Makes huge pages of the whole ones in `ranges` of a process that may run: madvise(2),
// MADV_COLLAPSE, Linux 6.1. What can't become one (unmapped since, MADV_NOHUGEPAGE, no memory)
// stays as it is. Between two of them the process has its memory for itself; `goes_on` is asked
// before each. Returns how many there are then. Throws Error when the process is gone.
std::size_t collapse_huge_pages(int pidfd, std::span<const PageRange> ranges,
                                const std::function<bool()>& goes_on);

}  // namespace godwit
