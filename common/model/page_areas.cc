#include "common/model/page_areas.h"

#include <sys/mman.h>

#include <algorithm>
#include <optional>

namespace godwit {
namespace {

std::optional<proto::PageArea::Kind> kind_of(const proto::Mapping& area) {
  switch (area.backing()) {
    case proto::BACKING_ANONYMOUS:
      return proto::PageArea::ANONYMOUS;
    case proto::BACKING_SHARED_ANONYMOUS:
      return proto::PageArea::SHARED_ANONYMOUS;
    case proto::BACKING_FILE:
      if (!area.shared()) return proto::PageArea::PRIVATE_FILE;
      return std::nullopt;
    default:
      return std::nullopt;
  }
}

// Arming every never-touched page of such an area would cost page tables for all of it.
bool is_reserved(const proto::Mapping& area) {
  constexpr std::uint64_t kHugeBytes = 8ULL << 30;
  return area.protection() == PROT_NONE || area.end() - area.start() >= kHugeBytes;
}

// To the last one where they adjoin and nothing tells them apart.
void add(std::vector<proto::PageArea>& areas, const PageRange& range, proto::PageArea::Kind kind,
         bool fresh, bool reserved) {
  if (!areas.empty()) {
    proto::PageArea& last = areas.back();
    if (last.end() == range.start && last.kind() == kind && last.fresh() == fresh &&
        last.reserved() == reserved) {
      last.set_end(range.end);
      return;
    }
  }
  proto::PageArea& area = areas.emplace_back();
  area.set_start(range.start);
  area.set_end(range.end);
  area.set_kind(kind);
  area.set_fresh(fresh);
  area.set_reserved(reserved);
}

}  // namespace

std::vector<proto::PageArea> page_areas(const proto::Mappings& mappings,
                                        const std::vector<PageRange>& fresh) {
  std::vector<proto::PageArea> areas;
  auto next_fresh = fresh.begin();
  for (const proto::Mapping& area : mappings.areas()) {
    const auto kind = kind_of(area);
    if (!kind) continue;
    Address at = area.start();
    while (at < area.end()) {
      while (next_fresh != fresh.end() && next_fresh->end <= at) ++next_fresh;
      const bool is_fresh = next_fresh != fresh.end() && next_fresh->start <= at;
      Address end = area.end();
      if (is_fresh) end = std::min(end, next_fresh->end);
      if (!is_fresh && next_fresh != fresh.end()) end = std::min(end, next_fresh->start);
      add(areas, {at, end}, *kind, is_fresh, is_reserved(area));
      at = end;
    }
  }
  return areas;
}

}  // namespace godwit
