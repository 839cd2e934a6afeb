// Tracking by soft-dirty bits: writing 4 to /proc/PID/clear_refs protects everything, bit 55 of a
// pagemap word tells what was written since (Documentation/admin-guide/mm/soft-dirty.rst).
//
// Reading the bits and clearing them are two steps: what is written between them is lost, so the
// task is stopped during a scan. Nothing needs arming, and a new mapping reads as written.
#pragma once

#include <vector>

#include "common/tracking/dirty_tracker.h"

namespace godwit {

// Decides about the words of the pages from `start` on, all inside `area`.
void classify_words(Address start, std::span<const pagemap::Word> words, const TrackedArea& area,
                    const PageBitmap& sent, ScanFindings& findings);

class SoftDirtyTracker final : public DirtyTracker {
 public:
  // Borrows the descriptors of /proc/PID/pagemap and /proc/PID/clear_refs (O_WRONLY).
  SoftDirtyTracker(int pagemap_fd, int clear_refs_fd);

  bool needs_stop_to_scan() const override { return true; }
  void scan(std::span<const TrackedArea> areas, ScanMode mode, const PageBitmap& sent,
            ScanFindings& findings) override;
  void find_absent(const PageRange& range, PageBitmap& absent) override;

 private:
  int pagemap_fd_;
  int clear_refs_fd_;
  std::vector<pagemap::Word> words_;
};

}  // namespace godwit
