// epoll sets (epoll(7)), made and filled inside the skeleton, where descriptor numbers are meant.
//
// Change class: the set is replaced, its targets change in place. What is ready is found again by
// the kernel when a target is added: an edge-triggered target that is ready reports once more. A
// one-shot target that has fired reports nothing but an error or a hang-up until it is armed again
// (the kernel always watches for those two when a target is added).
#pragma once

#include <map>
#include <set>
#include <vector>

#include "common/remote/syscall_batch.h"
#include "proto/fd_table.pb.h"

namespace godwit {

RowResult append_epoll(SyscallBatch& batch, const proto::OpenFile& file);

// What the sets in the skeleton hold now, and the rows that make them hold what is wanted.
class EpollSets {
 public:
  // Rows, ahead of closing or replacing `closing`: takes them out of every set that stays, since a
  // file that lives on elsewhere would stay in. Sets among `closing` are forgotten.
  void append_removals(SyscallBatch& batch, const std::vector<int>& closing);
  // Rows: the differences to `want`; a set that is not in it gets back what append_removals() took
  // out. Every target's descriptor stands.
  void append_changes(SyscallBatch& batch, const proto::FdTable& want);

 private:
  struct Target {
    std::uint32_t events = 0;
    std::uint64_t data = 0;
    friend bool operator==(const Target&, const Target&) = default;
  };
  using Targets = std::map<int, Target>;
  struct Set {
    Targets have;
    Targets wanted;  // as last described
    bool lacks = false;
  };

  static void append_difference(SyscallBatch& batch, std::uint32_t id, Set& set);

  std::map<std::uint32_t, Set> sets_;  // by the id of the set's open file, which is its fd
};

}  // namespace godwit
