// Tracking by userfaultfd's asynchronous write protection: a write to a protected page clears the
// protection without anybody being woken, and PAGEMAP_SCAN reports and protects again in one step
// (Linux 6.7; UFFD_FEATURE_WP_ASYNC and WP_UNPOPULATED, see write_protect_arm.h).
//
// Protecting an absent page puts a mark into its page table, and is not needed for exactness: an
// absent page that comes into being is not protected, and so counts as written. A reservation that
// was never touched gets none, for it would need page tables (2 MiB for each GiB). But absent pages
// between others, of which a sparse heap has thousands, are marked in the running rounds: each of
// them would have to be looked at in the final scan, while the task stands.
#pragma once

#include <array>
#include <memory>
#include <span>
#include <vector>

#include "common/tracking/dirty_tracker.h"
#include "common/tracking/shared_walk.h"

namespace godwit {

class WriteProtectTracker final : public DirtyTracker {
 public:
  // Borrows the descriptor (/proc/PID/pagemap, O_RDWR) for its lifetime. `absent_is_written`: what
  // probe_absent_is_written() says of this kernel.
  // `blocks_anonymous`: private anonymous memory is BlockingTracker's, which protects it itself.
  WriteProtectTracker(int pagemap_fd, bool absent_is_written, bool blocks_anonymous = false);

  bool needs_stop_to_scan() const override { return false; }
  void scan(std::span<const TrackedArea> areas, ScanMode mode, const PageBitmap& sent,
            ScanFindings& findings) override;
  void find_absent(const PageRange& range, PageBitmap& absent) override;

 private:
  // Areas that are walked in one call: same treatment, no or little space between them.
  struct Span {
    std::span<const TrackedArea> areas;
    PageRange range;
    bool file = false;
    bool fresh = false;
  };
  std::vector<Span> group(std::span<const TrackedArea> areas, ScanMode mode) const;
  void scan_running(const Span& span, const PageBitmap& sent, ScanFindings& findings);
  void scan_final(const Span& span, const PageBitmap& sent, ScanFindings& findings);
  // Protects the absent pages whose page tables exist, anonymous memory's only.
  void find_scattered(const Span& span, const PageBitmap& sent, ScanFindings& findings);
  // Ranges to look at in a final scan: the kernel walks twice as fast when nothing but "written" is
  // asked for and told.
  std::vector<PageRange> find_suspects(const Span& span);
  // For the final scan of what is large; a running one gets them, since starting threads takes
  // time.
  void get_helpers();
  // All that is there: marks in a mapping that is not registered are left from an earlier
  // registration, and writes do not take them away.
  void take_untracked(const Span& span, const PageRange& range, const PageBitmap& sent,
                      ScanFindings& findings);
  std::vector<PageRange> find_untracked(const Span& span);
  void find_written(const Span& span, const PageRange& range, bool protect, bool absent_too,
                    const PageBitmap& sent, ScanFindings& findings);
  void find_lost(const Span& span, const PageRange& range, const PageBitmap& sent,
                 ScanFindings& findings);
  void take(const Span& span, const pagemap::Region& region, bool written, const PageBitmap& sent,
            ScanFindings& findings) const;

  int pagemap_fd_;
  bool absent_is_written_;
  bool blocks_anonymous_;
  bool guards_ = false;
  std::array<pagemap::Region, 1024> buffer_{};
  std::unique_ptr<SharedWalk> helpers_;
};

}  // namespace godwit
