// Tracking by soft-dirty bits: writing 4 to /proc/PID/clear_refs protects everything, bit 55 of a
// pagemap word tells what was written since (Documentation/admin-guide/mm/soft-dirty.rst).
//
// Reading the bits and clearing them are two steps: what is written between them is lost, so the
// task is stopped during a scan. Nothing needs arming, and a new mapping reads as written.
//
// The bit belongs to an entry of a page table, and not all that changes a page sets it:
//   - what was given back reads as the kernel's page of zeros, which is there and not written;
//   - mremap moves whole page tables with the bits as they are, onto what was there before;
//   - an entry of shared memory is dropped and comes back without the bit, whoever wrote meanwhile.
// So a page of zeros counts as given back; a private page counts as written, too, when its frame
// (or its place in swap) is another one than in the scan before; and a page of shared memory always
// does: its content decides.
#pragma once

#include <cstdint>
#include <vector>

#include "common/tracking/dirty_tracker.h"
#include "common/tracking/page_values.h"

namespace godwit {

// Where the pages of the last scan were, 0: not there; 4 bytes for each page. The pagemap tells
// only if a privileged process opened it; else nothing ever changes its place.
using PagePlaces = PageValues<std::uint32_t>;

// The frames of zeros that the kernel shows where something is read that was never written. 0: not
// known. They stay the same as long as the process that asked lives.
struct ZeroFrames {
  std::uint64_t page = 0;
  std::uint64_t huge = 0;  // the first of 512

  bool contains(const pagemap::Word& word) const {
    const std::uint64_t frame = word.present() ? word.place() : 0;
    return frame != 0 && (frame == page || (huge != 0 && frame >= huge && frame - huge < 512));
  }
};

// Decides about the words of the pages from `start` on, all inside `area`.
void classify_words(Address start, std::span<const pagemap::Word> words, const TrackedArea& area,
                    const PageBitmap& sent, const ZeroFrames& zeros, PagePlaces& places,
                    ScanFindings& findings);

class SoftDirtyTracker final : public DirtyTracker {
 public:
  // Borrows the descriptors of /proc/PID/pagemap and /proc/PID/clear_refs (O_WRONLY).
  SoftDirtyTracker(int pagemap_fd, int clear_refs_fd, ZeroFrames zeros = {});

  bool needs_stop_to_scan() const override { return true; }
  void scan(std::span<const TrackedArea> areas, ScanMode mode, const PageBitmap& sent,
            ScanFindings& findings) override;
  void find_absent(const PageRange& range, PageBitmap& absent) override;

 private:
  int pagemap_fd_;
  int clear_refs_fd_;
  std::vector<pagemap::Word> words_;
  ZeroFrames zeros_;
  PagePlaces places_;
};

}  // namespace godwit
