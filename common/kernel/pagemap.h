// What the kernel tells about the pages of an address space: the words of /proc/PID/pagemap and the
// PAGEMAP_SCAN ioctl on the same file (Documentation/admin-guide/mm/pagemap.rst; Linux 6.7).
//
// The descriptor carries its permission: opened by a privileged agent it works in an unprivileged
// process. Declared here because the C library's headers are older than the interface.
//
// What a scan means is subtle. Whether a page that was given back (MADV_DONTNEED) counts as written
// depends on the kernel and on the masks; no kernel reports it when its whole page table is gone.
// tracking/ does not rely on either and finds such pages by their absence.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "common/base/page_range.h"

namespace godwit::pagemap {

inline constexpr unsigned long kScanRequest = 0xc0606610;  // PAGEMAP_SCAN, for system call filters

// Categories of a page (PAGE_IS_*).
inline constexpr std::uint64_t kWriteProtectable = 1 << 0;  // in a mapping registered with WP_ASYNC
inline constexpr std::uint64_t kWritten = 1 << 1;
inline constexpr std::uint64_t kFile = 1 << 2;  // page cache: a private file's own copy is not
inline constexpr std::uint64_t kPresent = 1 << 3;
inline constexpr std::uint64_t kSwapped = 1 << 4;  // or a marker in the page table, or in migration
inline constexpr std::uint64_t kZeroPage = 1 << 5;
inline constexpr std::uint64_t kHuge = 1 << 6;
inline constexpr std::uint64_t kSoftDirty = 1 << 7;
inline constexpr std::uint64_t kGuard = 1 << 8;  // Linux 6.15

struct Region {
  Address start;
  Address end;
  std::uint64_t categories;
};

// A page is reported when (its categories ^ inverted) has all of `all`, and one of `any` unless
// that is 0. `reported` are the categories told; neighbours with the same ones come as one region.
struct Query {
  std::uint64_t inverted = 0;
  std::uint64_t all = 0;
  std::uint64_t any = 0;
  std::uint64_t reported = 0;
  bool protect = false;  // write-protect what is reported; mappings that cannot be are passed over
};

using RegionSink = std::function<void(const Region&)>;

// Reports all regions of `range`, in order, through a buffer of `buffer.size()` regions, as many
// calls as it takes. Throws Error; its code is ESRCH when the address space is gone.
void scan(int pagemap_fd, const PageRange& range, const Query& query, std::span<Region> buffer,
          const RegionSink& sink);

// True if this kernel has the ioctl; `guards` tells whether it knows kGuard.
bool has_scan(int pagemap_fd, bool* guards);

// A word of /proc/PID/pagemap.
struct Word {
  std::uint64_t bits = 0;
  bool present() const { return (bits >> 63 & 1) != 0; }
  bool swapped() const { return (bits >> 62 & 1) != 0; }
  bool file() const { return (bits >> 61 & 1) != 0; }
  bool guard() const { return (bits >> 58 & 1) != 0; }  // Linux 6.15, 0 before
  bool soft_dirty() const { return (bits >> 55 & 1) != 0; }
  // The page frame, or where in swap the page is; 0: not there, or not to be known.
  std::uint64_t place() const { return present() || swapped() ? bits & ((1ULL << 55) - 1) : 0; }
};

// Reads the words of pages [start, start + words.size()); the rest stays 0 when the address space
// ends earlier. Throws Error.
void read_words(int pagemap_fd, Address start, std::span<Word> words);

}  // namespace godwit::pagemap
