// Which areas of an address space hold pages that travel, as the page servers get them.
#pragma once

#include <vector>

#include "common/base/page_range.h"
#include "proto/mappings.pb.h"
#include "proto/page_service.pb.h"

namespace godwit {

// Areas of private and shared anonymous memory, and of private file mappings (their copied pages).
// Pieces that lie in one of `fresh` (in address order, disjoint) are marked fresh: empty at the
// destination. Reserved address space (PROT_NONE, or huge and unreserved) is marked as such. What
// adjoins and is alike is one area, however many mappings it is.
std::vector<proto::PageArea> page_areas(const proto::Mappings& mappings,
                                        const std::vector<PageRange>& fresh);

}  // namespace godwit
