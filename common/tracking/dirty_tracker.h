// Which pages have to travel: the seam between the ways a kernel can tell (each has its
// own traps) and the page server that reads and sends.
//
// Tracking has two halves. Arming needs privileges and is the agent's (write_protect_arm.h; nothing
// at all for soft-dirty). Scanning needs only descriptors and is the page server's.
//
// What a scan decides, by the kind of an area:
//   - a page that is there and was written (first scan: that is there) is data;
//   - a page that is not there any more, but was sent before, is found by its absence, whatever the
//     kernel says about "written": zero for anonymous memory; for shared and file memory its
//     present content is read again (data), since giving it back did not empty it;
//   - of a private file mapping only the process's own copies are data.
// A page may be in both sets: then zero goes first, because data is read after the scan.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "common/base/page_range.h"
#include "common/kernel/pagemap.h"
#include "common/tracking/page_bitmap.h"

namespace godwit {

enum class AreaKind : std::uint8_t { kAnonymous, kSharedAnonymous, kPrivateFile };

struct TrackedArea {
  PageRange range;
  AreaKind kind = AreaKind::kAnonymous;
  bool fresh = false;  // not sent before: everything that is there is sent
};

struct ScanFindings {
  PageBitmap data;
  PageBitmap zero;
  std::vector<PageRange>
      untracked;  // not armed: were scanned, but nothing will be told about later
};

enum class ScanMode : std::uint8_t {
  kRunning,  // arms again what it reports
  kFinal,    // the task is stopped for good; nothing is armed
};

class DirtyTracker {
 public:
  DirtyTracker() = default;
  DirtyTracker(const DirtyTracker&) = delete;
  DirtyTracker& operator=(const DirtyTracker&) = delete;
  virtual ~DirtyTracker() = default;

  // True when the task must be stopped during scan(), or writes are lost.
  virtual bool needs_stop_to_scan() const = 0;

  // Adds what has to be sent of `areas` (sorted, not overlapping) to `findings`. `sent` are the
  // pages that the destination holds. Throws Error, with code ESRCH when the address space is gone.
  virtual void scan(std::span<const TrackedArea> areas, ScanMode mode, const PageBitmap& sent,
                    ScanFindings& findings) = 0;

  // Adds the pages of `range` that no page table shows to `absent`. Of shared memory these may
  // exist all the same: such a page, written and then unmapped between two scans, leaves no trace.
  virtual void find_absent(const PageRange& range, PageBitmap& absent) = 0;
};

// What is known of a range of pages that are all in the same state.
struct PageState {
  bool written = false;
  bool present = false;
  bool swapped = false;
  bool file = false;  // only looked at for kPrivateFile
  bool zero_page = false;
  bool guard = false;

  friend bool operator==(const PageState&, const PageState&) = default;
};

// The decision above, for all backends.
void classify(const PageRange& range, const PageState& state, AreaKind kind, bool fresh,
              const PageBitmap& sent, ScanFindings& findings);

}  // namespace godwit
