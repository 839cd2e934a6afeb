#include "common/tracking/write_protect_tracker.h"

#include <algorithm>

namespace godwit {
namespace {

constexpr std::uint64_t kThere = pagemap::kPresent | pagemap::kSwapped;
// Walking over this much that belongs to no area costs less than a call of its own.
constexpr std::uint64_t kGapBytesMax = 1 << 20;
// Looking at a written range again costs about as much as walking over this much once more.
constexpr std::uint64_t kSecondLookBytes = 512 << 10;
// Less than a page table maps, so that no table is made for what lies between two that exist.
constexpr std::uint64_t kGatherBytes = 64 << 10;

// Below this a walk is over before a helper is awake.
constexpr std::uint64_t kSharedWalkBytes = 512 << 20;

// What one page table maps.
constexpr std::uint64_t kTableBytes = kPageSize * 512;

// The parts of `region` whose page tables hold something else as well. Nothing of `whole` follows
// or precedes the region that is like it.
std::vector<PageRange> share_of_tables(const pagemap::Region& region, const PageRange& whole) {
  std::vector<PageRange> parts;
  const auto add_table_of = [&](Address address) {
    const Address table = address / kTableBytes * kTableBytes;
    const Address start = std::max(table, whole.start);
    const Address end = std::min(table + kTableBytes, whole.end);
    if (region.start <= start && region.end >= end) return;
    const PageRange part{std::max(start, region.start), std::min(end, region.end)};
    if (parts.empty() || parts.back() != part) parts.push_back(part);
  };
  add_table_of(region.start);
  add_table_of(region.end - kPageSize);
  return parts;
}

void look_for_written(int pagemap_fd, const PageRange& range, std::span<pagemap::Region> buffer,
                      const pagemap::RegionSink& sink) {
  pagemap::Query query;
  query.all = query.reported = pagemap::kWritten;
  pagemap::scan(pagemap_fd, range, query, buffer, sink);
}

// `found` ascends; what lies close together is looked at as one.
template <typename Range>
void add_suspect(const Range& found, std::vector<PageRange>& suspects) {
  if (!suspects.empty() && found.start - suspects.back().end <= kSecondLookBytes) {
    suspects.back().end = found.end;
  } else {
    suspects.push_back(PageRange{found.start, found.end});
  }
}

}  // namespace

WriteProtectTracker::WriteProtectTracker(int pagemap_fd, bool absent_is_written,
                                         bool blocks_anonymous)
    : pagemap_fd_(pagemap_fd),
      absent_is_written_(absent_is_written),
      blocks_anonymous_(blocks_anonymous) {
  pagemap::has_scan(pagemap_fd_, &guards_);
}

std::vector<WriteProtectTracker::Span> WriteProtectTracker::group(
    std::span<const TrackedArea> areas, ScanMode mode) const {
  // In a running round a gap may hold a mapping that nobody tracks and that must stay unprotected.
  const std::uint64_t gap_max = mode == ScanMode::kFinal ? kGapBytesMax : 0;
  std::vector<Span> spans;
  for (std::size_t i = 0; i < areas.size(); ++i) {
    const TrackedArea& area = areas[i];
    const bool file = area.kind == AreaKind::kPrivateFile;
    if (!spans.empty()) {
      Span& last = spans.back();
      if (last.file == file && last.fresh == area.fresh && last.areas.back().kind == area.kind &&
          area.range.start - last.range.end <= gap_max) {
        last.areas = std::span(last.areas.data(), last.areas.size() + 1);
        last.range.end = area.range.end;
        continue;
      }
    }
    spans.push_back(Span{areas.subspan(i, 1), area.range, file, area.fresh});
  }
  return spans;
}

void WriteProtectTracker::scan(std::span<const TrackedArea> areas, ScanMode mode,
                               const PageBitmap& sent, ScanFindings& findings) {
  for (const Span& span : group(areas, mode)) {
    if (mode == ScanMode::kFinal) {
      scan_final(span, sent, findings);
    } else {
      scan_running(span, sent, findings);
    }
  }
}

void WriteProtectTracker::scan_running(const Span& span, const PageBitmap& sent,
                                       ScanFindings& findings) {
  if (span.range.bytes() >= kSharedWalkBytes) get_helpers();
  // A protecting scan passes over mappings that are not registered, so they are found and scanned
  // apart. A mapping that appears in between is found by the next round.
  const std::vector<PageRange> untracked = find_untracked(span);
  find_written(span, span.range, true, false, sent, findings);
  for (const PageRange& range : untracked) take_untracked(span, range, sent, findings);
  find_scattered(span, sent, findings);
  find_lost(span, span.range, sent, findings);
}

void WriteProtectTracker::find_scattered(const Span& span, const PageBitmap& sent,
                                         ScanFindings& findings) {
  if (!absent_is_written_ || span.fresh || span.areas.front().kind != AreaKind::kAnonymous) return;
  std::vector<PageRange> scattered;
  look_for_written(pagemap_fd_, span.range, buffer_, [&](const pagemap::Region& region) {
    for (const PageRange& part : share_of_tables(region, span.range)) {
      if (!scattered.empty() && part.start - scattered.back().end <= kGatherBytes) {
        scattered.back().end = part.end;
      } else {
        scattered.push_back(part);
      }
    }
  });
  for (const PageRange& range : scattered) find_written(span, range, true, true, sent, findings);
}

void WriteProtectTracker::scan_final(const Span& span, const PageBitmap& sent,
                                     ScanFindings& findings) {
  if (!absent_is_written_ || span.file) {
    find_written(span, span.range, false, false, sent, findings);
    for (const PageRange& range : find_untracked(span)) {
      take_untracked(span, range, sent, findings);
    }
    find_lost(span, span.range, sent, findings);
    return;
  }
  // What the kernel says of absent pages holds for registered mappings only; the others come below.
  for (const PageRange& range : find_suspects(span)) {
    find_written(span, range, false, true, sent, findings);
  }
  for (const PageRange& range : find_untracked(span)) {
    take_untracked(span, range, sent, findings);
    find_lost(span, range, sent, findings);
  }
}

void WriteProtectTracker::take_untracked(const Span& span, const PageRange& range,
                                         const PageBitmap& sent, ScanFindings& findings) {
  Span all = span;
  all.fresh = true;
  find_written(all, range, false, false, sent, findings);
  findings.untracked.push_back(range);
}

void WriteProtectTracker::get_helpers() {
  if (!helpers_) helpers_ = std::make_unique<SharedWalk>(SharedWalk::helpers_here());
}

std::vector<PageRange> WriteProtectTracker::find_suspects(const Span& span) {
  if (span.fresh) return {span.range};
  std::vector<PageRange> suspects;
  if (!helpers_ || span.range.bytes() < kSharedWalkBytes) {
    look_for_written(pagemap_fd_, span.range, buffer_,
                     [&](const pagemap::Region& region) { add_suspect(region, suspects); });
    return suspects;
  }
  const auto walk = [fd = pagemap_fd_](const PageRange& piece, std::vector<PageRange>& found) {
    std::array<pagemap::Region, 256> buffer;  // NOLINT(*-member-init): the kernel fills it
    look_for_written(fd, piece, buffer,
                     [&](const pagemap::Region& region) { add_suspect(region, found); });
  };
  for (const PageRange& found : helpers_->run(span.range, walk)) add_suspect(found, suspects);
  return suspects;
}

std::vector<PageRange> WriteProtectTracker::find_untracked(const Span& span) {
  // The kernel only tells of asynchronous protection.
  if (blocks_anonymous_ && span.areas.front().kind == AreaKind::kAnonymous) return {};
  pagemap::Query query;
  query.inverted = query.all = query.reported = pagemap::kWriteProtectable;
  std::vector<PageRange> found;
  pagemap::scan(pagemap_fd_, span.range, query, buffer_, [&](const pagemap::Region& region) {
    for (const TrackedArea& area : span.areas) {
      const auto part = PageRange::make(std::max(region.start, area.range.start),
                                        std::min(region.end, area.range.end));
      if (!part) continue;
      if (!found.empty() && found.back().end == part->start) {
        found.back().end = part->end;
      } else {
        found.push_back(*part);
      }
    }
  });
  return found;
}

void WriteProtectTracker::find_written(const Span& span, const PageRange& range, bool protect,
                                       bool absent_too, const PageBitmap& sent,
                                       ScanFindings& findings) {
  pagemap::Query query;
  query.all = span.fresh ? 0 : pagemap::kWritten;
  query.any = absent_too && !span.fresh ? 0 : kThere;
  query.reported = kThere | pagemap::kZeroPage | (guards_ ? pagemap::kGuard : 0);
  // Costs a look at each page's descriptor, eight times the rest: only where it decides something.
  if (span.file) query.reported |= pagemap::kFile;
  query.protect = protect;
  pagemap::scan(pagemap_fd_, range, query, buffer_,
                [&](const pagemap::Region& region) { take(span, region, true, sent, findings); });
}

void WriteProtectTracker::find_lost(const Span& span, const PageRange& range,
                                    const PageBitmap& sent, ScanFindings& findings) {
  if (span.fresh) return;
  pagemap::Query query;
  if (span.file) {
    query.reported = kThere | pagemap::kFile;
  } else {
    query.inverted = query.all = query.reported = kThere;
  }
  // Nothing was sent of most of a large reservation: look only where something was.
  PageRange near{0, 0};
  const auto look = [&] {
    if (near.start == near.end) return;
    pagemap::scan(pagemap_fd_, near, query, buffer_, [&](const pagemap::Region& region) {
      take(span, region, false, sent, findings);
    });
  };
  sent.for_each_run(range, [&](const PageRange& run) {
    if (near.start != near.end && run.start - near.end <= kGapBytesMax) {
      near.end = run.end;
      return;
    }
    look();
    near = run;
  });
  look();
}

void WriteProtectTracker::find_absent(const PageRange& range, PageBitmap& absent) {
  pagemap::Query query;
  query.inverted = query.all = query.reported = kThere;
  pagemap::scan(pagemap_fd_, range, query, buffer_, [&](const pagemap::Region& region) {
    absent.set(PageRange{region.start, region.end});
  });
}

void WriteProtectTracker::take(const Span& span, const pagemap::Region& region, bool written,
                               const PageBitmap& sent, ScanFindings& findings) const {
  const std::uint64_t is = region.categories;
  const PageState state{.written = written,
                        .present = (is & pagemap::kPresent) != 0,
                        .swapped = (is & pagemap::kSwapped) != 0,
                        .file = (is & pagemap::kFile) != 0,
                        .zero_page = (is & pagemap::kZeroPage) != 0,
                        .guard = (is & pagemap::kGuard) != 0};
  // The first area that reaches beyond the region's start; a span has thousands at times.
  auto area =
      std::partition_point(span.areas.begin(), span.areas.end(),
                           [&](const TrackedArea& each) { return each.range.end <= region.start; });
  for (; area != span.areas.end() && area->range.start < region.end; ++area) {
    const auto part = PageRange::make(std::max(region.start, area->range.start),
                                      std::min(region.end, area->range.end));
    if (part) classify(*part, state, area->kind, area->fresh, sent, findings);
  }
}

}  // namespace godwit
