#include "page-server/areas.h"

#include <algorithm>
#include <limits>

#include "common/base/error.h"

namespace godwit {
namespace {

AreaKind kind_of(proto::PageArea::Kind kind) {
  switch (kind) {
    case proto::PageArea::ANONYMOUS:
      return AreaKind::kAnonymous;
    case proto::PageArea::SHARED_ANONYMOUS:
      return AreaKind::kSharedAnonymous;
    case proto::PageArea::PRIVATE_FILE:
      return AreaKind::kPrivateFile;
    default:
      fail("area of unknown kind {}", static_cast<int>(kind));
  }
}

}  // namespace

std::vector<TrackedArea> areas_of(const proto::SetAreas& order) {
  std::vector<TrackedArea> areas;
  areas.reserve(static_cast<std::size_t>(order.areas_size()));
  for (const proto::PageArea& area : order.areas()) {
    const auto range = PageRange::make(area.start(), area.end());
    if (!range) fail("area {:x}-{:x} is not whole pages", area.start(), area.end());
    areas.push_back({*range, kind_of(area.kind()), area.fresh()});
  }
  std::sort(areas.begin(), areas.end(), [](const TrackedArea& left, const TrackedArea& right) {
    return left.range.start < right.range.start;
  });
  for (std::size_t i = 1; i < areas.size(); ++i) {
    if (areas[i - 1].range.end > areas[i].range.start) {
      fail("areas overlap at {:x}", areas[i].range.start);
    }
  }
  return areas;
}

void forget_lost_pages(std::span<const TrackedArea> areas, PageBitmap& pages) {
  Address at = 0;
  for (const TrackedArea& area : areas) {
    if (area.range.start > at) pages.clear(PageRange{at, area.range.start});
    if (area.fresh) pages.clear(area.range);
    at = area.range.end;
  }
  pages.clear(PageRange{at, std::numeric_limits<Address>::max() / kPageSize * kPageSize});
}

PageBitmap in_anonymous_areas(const PageBitmap& pages, std::span<const TrackedArea> areas) {
  PageBitmap found;
  for (const TrackedArea& area : areas) {
    if (area.kind != AreaKind::kAnonymous) continue;
    pages.for_each_run(area.range, [&](const PageRange& run) { found.set(run); });
  }
  return found;
}

PageRange range_of(const proto::PageSpan& span) {
  const auto range = PageRange::make(span.start(), span.end());
  if (!range) fail("range {:x}-{:x} is not whole pages", span.start(), span.end());
  return *range;
}

void find_removed(const proto::SendRound& order, const PageBitmap& sent, ScanFindings& findings) {
  const auto add_sent_of = [&](const proto::PageSpan& span, PageBitmap& pages) {
    sent.for_each_run(range_of(span), [&](const PageRange& run) { pages.set(run); });
  };
  PageBitmap gone;
  for (const proto::PageSpan& span : order.looked_at()) add_sent_of(span, gone);
  for (const proto::PageSpan& span : order.existing()) gone.clear(range_of(span));
  PageBitmap distrusted;
  for (const proto::PageSpan& span : order.distrusted()) add_sent_of(span, distrusted);
  gone.for_each_run([&](const PageRange& run) {
    findings.zero.set(run);
    distrusted.clear(run);
  });
  distrusted.for_each_run([&](const PageRange& run) { findings.data.set(run); });
}

const TrackedArea* find_area(std::span<const TrackedArea> areas, Address address) {
  const auto found = std::partition_point(areas.begin(), areas.end(), [&](const TrackedArea& area) {
    return area.range.end <= address;
  });
  if (found == areas.end() || !found->range.contains(address)) return nullptr;
  return &*found;
}

}  // namespace godwit
