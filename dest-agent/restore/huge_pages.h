// Transparent huge pages, made again where the process had them: pages are placed one by one, in
// any order, and become a huge page when all of them are there and the process runs.
#pragma once

#include <vector>

#include "common/base/page_range.h"
#include "common/model/journal.h"
#include "proto/snapshot.pb.h"

namespace godwit {

class WishedHugePages {
 public:
  // Of the first description. Throws Error for what is no memory.
  void take(const proto::Process& process);

  // After the last page, when nobody waits any more. What does not work is logged: the process has
  // its memory all the same.
  void grant(const ProcessMark& process) const noexcept;

 private:
  std::vector<PageRange> ranges_;
};

}  // namespace godwit
