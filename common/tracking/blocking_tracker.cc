#include "common/tracking/blocking_tracker.h"

#include <sched.h>

#include <algorithm>
#include <cerrno>

#include "common/base/error.h"
#include "common/kernel/userfaultfd.h"

namespace godwit {
namespace {

// Some 100 us.
constexpr std::uint64_t kPieceBytes = 4 << 20;
// Walking over this much of which nothing was sent costs less than a call of its own.
constexpr std::uint64_t kGapBytesMax = 1 << 20;

}  // namespace

void enable_blocking_protection(int uffd) {
  userfaultfd_enable(uffd, UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_EVENT_REMAP |
                               UFFD_FEATURE_EVENT_REMOVE | UFFD_FEATURE_EVENT_UNMAP);
}

bool protect_blocking(int uffd, const PageRange& range) {
  for (Address at = range.start; at < range.end;) {
    const PageRange piece{at, std::min(at + kPieceBytes, range.end)};
    const int code = try_userfaultfd_protect(uffd, piece);
    if (code == EAGAIN) {
      sched_yield();
      continue;
    }
    if (code == ENOENT) return false;
    if (code != 0) {
      throw_errno(code, fmt::format("write-protect {:x}-{:x}", piece.start, piece.end));
    }
    at = piece.end;
  }
  return true;
}

BlockingTracker::BlockingTracker(int pagemap_fd, int uffd, bool absent_is_written)
    : pagemap_fd_(pagemap_fd), uffd_(uffd), others_(pagemap_fd, absent_is_written, true) {
  pagemap::has_scan(pagemap_fd_, &guards_);
}

void BlockingTracker::scan(std::span<const TrackedArea> areas, ScanMode mode,
                           const PageBitmap& sent, ScanFindings& findings) {
  if (mode == ScanMode::kFinal) return others_.scan(areas, mode, sent, findings);
  std::vector<TrackedArea> others;
  for (const TrackedArea& area : areas) {
    if (area.kind == AreaKind::kAnonymous) {
      scan_anonymous(area, sent, findings);
    } else {
      others.push_back(area);
    }
  }
  others_.scan(others, mode, sent, findings);
}

void BlockingTracker::find_absent(const PageRange& range, PageBitmap& absent) {
  others_.find_absent(range, absent);
}

void BlockingTracker::scan_anonymous(const TrackedArea& area, const PageBitmap& sent,
                                     ScanFindings& findings) {
  const auto take = [&](bool all) {
    pagemap::Query query;
    query.all = all ? 0 : pagemap::kWritten;
    query.any = pagemap::kPresent | pagemap::kSwapped;
    query.reported = query.any | (guards_ ? pagemap::kGuard : 0);
    std::vector<pagemap::Region> found;
    pagemap::scan(pagemap_fd_, area.range, query, buffer_,
                  [&](const pagemap::Region& region) { found.push_back(region); });
    bool registered = true;
    for (const pagemap::Region& region : found) {
      const PageRange range{region.start, region.end};
      const std::uint64_t is = region.categories;
      const PageState state{.written = true,
                            .present = (is & pagemap::kPresent) != 0,
                            .swapped = (is & pagemap::kSwapped) != 0,
                            .guard = (is & pagemap::kGuard) != 0};
      // What is protected has to be read, also where there were only zeros: it may have been
      // written since they were seen.
      if (!state.guard) registered = registered && protect_blocking(uffd_, range);
      classify(range, state, area.kind, area.fresh, sent, findings);
    }
    return registered;
  };
  if (!take(area.fresh)) {
    // Mapped anew in the same place: what is left of an old protection says nothing.
    take(true);
    findings.untracked.push_back(area.range);
  }
  if (!area.fresh) find_lost(area.range, sent, findings);
}

void BlockingTracker::find_lost(const PageRange& area, const PageBitmap& sent,
                                ScanFindings& findings) {
  PageRange near{0, 0};
  const auto look = [&] {
    if (near.start == near.end) return;
    PageBitmap absent;
    find_absent(near, absent);
    absent.for_each_run([&](const PageRange& run) {
      classify(run, PageState{}, AreaKind::kAnonymous, false, sent, findings);
    });
  };
  sent.for_each_run(area, [&](const PageRange& run) {
    if (near.start != near.end && run.start - near.end <= kGapBytesMax) {
      near.end = run.end;
      return;
    }
    look();
    near = run;
  });
  look();
}

}  // namespace godwit
