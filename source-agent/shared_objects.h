// Shared anonymous memory is more than what the page tables of the task show of it: pages exist in
// the object that no table holds, and pages are removed from it (MADV_REMOVE) while the tables go
// on to say that nothing was written: the mark of write protection outlives the page (Linux:
// unmap_mapping_range keeps it), and covers the zeros that are read there afterwards.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <map>
#include <vector>

#include "common/base/page_range.h"
#include "proto/mappings.pb.h"

namespace godwit {

// Ranges in the task's address space.
struct SharedPages {
  std::vector<PageRange> looked_at;   // areas; what of them is not `existing` is a hole
  std::vector<PageRange> existing;    // hold data in their object
  std::vector<PageRange> distrusted;  // areas of small objects that changed since the last look
};

class SharedObjects {
 public:
  explicit SharedObjects(pid_t host_pid) : host_pid_(host_pid) {}

  // Before each round. A page that was removed is a hole, until it is read: then it exists again,
  // with zeros, and nothing tells but the object's time of modification (inode(7): mtime), which
  // any write changes as well. So that is asked of objects up to kSmallBytes. What is as old as the
  // clock of such times is coarse counts as new.
  SharedPages look(const proto::Mappings& mappings);

  static constexpr std::uint64_t kSmallBytes = 1 << 20;

 private:
  struct Seen {
    std::int64_t modified_ns = 0;
    std::int64_t looked_ns = 0;
  };

  pid_t host_pid_;
  std::map<std::uint64_t, Seen> seen_;  // by inode
};

}  // namespace godwit
