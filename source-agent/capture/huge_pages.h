// Which memory is made of transparent huge pages (proto/huge_pages.proto). To be looked at before
// the first page is protected: a write splits a huge page then.
#pragma once

#include <vector>

#include "common/base/page_range.h"
#include "proto/mappings.pb.h"
#include "proto/snapshot.pb.h"

namespace godwit {

// Of private anonymous areas; the process may run. Empty where the kernel has no PAGEMAP_SCAN.
// Throws Error.
std::vector<PageRange> find_huge_pages(int pagemap_fd, const proto::Mappings& mappings);

void describe_huge_pages(int pagemap_fd, const proto::Mappings& mappings, proto::Process& out);

}  // namespace godwit
