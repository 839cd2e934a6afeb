// The areas of an address space as the agents set them, and what changes when they are set again.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "common/tracking/dirty_tracker.h"
#include "common/tracking/page_bitmap.h"
#include "proto/page_service.pb.h"

namespace godwit {

// Sorted areas out of an order. Throws Error for ranges that are no whole pages or that overlap.
std::vector<TrackedArea> areas_of(const proto::SetAreas& order);

// Forgets pages outside of all areas, and inside fresh ones.
void forget_lost_pages(std::span<const TrackedArea> areas, PageBitmap& pages);

// Those of the pages that are in areas of private anonymous memory.
PageBitmap in_anonymous_areas(const PageBitmap& pages, std::span<const TrackedArea> areas);

// Throws Error unless it is whole pages.
PageRange range_of(const proto::PageSpan& span);

// What is a hole of its object is sent as zeros; what was written since is found as written, and
// goes after it.
void find_removed(const proto::SendRound& order, const PageBitmap& sent, ScanFindings& findings);

// The area that holds `address`, or null.
const TrackedArea* find_area(std::span<const TrackedArea> areas, Address address);

}  // namespace godwit
