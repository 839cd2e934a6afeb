// Tracking for a copy-on-write checkpoint: private anonymous memory is write-protected in a way
// that makes a writer wait until somebody takes the protection off (userfaultfd(2), without
// WP_ASYNC), everything else as WriteProtectTracker does it. A page that is unprotected counts as
// written.
//
// PAGEMAP_SCAN protects asynchronously only, so looking and protecting are two steps here: what is
// found is protected, and read after that. A page that is written in between was found already.
#pragma once

#include <array>
#include <span>
#include <vector>

#include "common/tracking/write_protect_tracker.h"

namespace godwit {

// UFFDIO_API for such a descriptor; once. Writers wait, and so does whoever removes, moves or
// unmaps memory, until it was read. Throws Error.
void enable_blocking_protection(int uffd);

// Protects what is there of `range`, in pieces that nobody waits long for. False: some of it is not
// registered, or not there any more. Somebody else must be reading the descriptor.
bool protect_blocking(int uffd, const PageRange& range);

class BlockingTracker final : public DirtyTracker {
 public:
  // Borrows the descriptors: /proc/PID/pagemap, and the userfaultfd of anonymous memory, which
  // another thread reads.
  BlockingTracker(int pagemap_fd, int uffd, bool absent_is_written);

  bool needs_stop_to_scan() const override { return false; }
  void scan(std::span<const TrackedArea> areas, ScanMode mode, const PageBitmap& sent,
            ScanFindings& findings) override;
  void find_absent(const PageRange& range, PageBitmap& absent) override;

 private:
  void scan_anonymous(const TrackedArea& area, const PageBitmap& sent, ScanFindings& findings);
  void find_lost(const PageRange& area, const PageBitmap& sent, ScanFindings& findings);

  int pagemap_fd_;
  int uffd_;
  bool guards_ = false;
  WriteProtectTracker others_;
  std::array<pagemap::Region, 1024> buffer_{};
};

}  // namespace godwit
