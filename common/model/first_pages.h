// Pages that a process touches as soon as it runs: where pages may follow later, these travel with
// its state. A fault on each of them would cost every thread a wait.
#pragma once

#include <vector>

#include "common/base/page_range.h"
#include "proto/mappings.pb.h"
#include "proto/threads.pb.h"

namespace godwit {

// What the thread touches, and what the kernel touches for it. In no order; may overlap.
void add_first_pages(const proto::Thread& thread, std::vector<PageRange>& pages);
// Memory that is locked, since it must never be missing.
void add_locked_pages(const proto::Mappings& mappings, std::vector<PageRange>& pages);

}  // namespace godwit
