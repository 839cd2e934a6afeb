// The difference between two descriptions of one address space.
//
// Both hosts work it out from the same two descriptions: the destination to change the skeleton's
// mappings, the source to know which ranges begin empty there and must be sent whole. A range keeps
// its pages when what backs it is the same before and after, however its areas were split, merged,
// protected or advised in between.
#pragma once

#include <vector>

#include "common/base/page_range.h"
#include "proto/mappings.pb.h"

namespace godwit {

struct LayoutSegment {
  PageRange range;
  const proto::Mapping* have = nullptr;  // null where nothing was
  const proto::Mapping* want = nullptr;  // null where nothing will be
};

struct LayoutDiff {
  std::vector<PageRange> unmap;       // before anything else
  std::vector<LayoutSegment> map;     // new and empty
  std::vector<LayoutSegment> change;  // kept; protection, advice or name differs
  bool empty() const { return unmap.empty() && map.empty() && change.empty(); }
};

// Pointers in the result point into `have` and `want`, which must outlive it. The vDSO and its data
// are left out: they are moved, never mapped.
LayoutDiff diff_layout(const proto::Mappings& have, const proto::Mappings& want);

// The same address space with adjoining areas joined that nothing tells apart: how the kernel
// divides them depends on how they came to be.
proto::Mappings join_areas(const proto::Mappings& mappings);

// The offset into the backing at `address`, which lies in `area`.
std::uint64_t offset_at(const proto::Mapping& area, Address address);

// Throws Error unless areas are in order, page aligned, disjoint and their file indexes exist: what
// comes from another host goes through this first.
void check_mappings(const proto::Mappings& mappings);

}  // namespace godwit
