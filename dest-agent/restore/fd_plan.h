// What must be done to turn one descriptor table into another. Pure: no kernel.
//
// Change class of open files: replace. A file stands when the file under the same id (the lowest
// descriptor that refers to it) was made from the same make_key(); everything else about it
// (offset, counts, contents, arming) is put right in the blackout. An open file always stands at
// the descriptor that is its id, so duplicates are copied from there and no cycle of numbers can
// arise.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "proto/fd_table.pb.h"

namespace godwit {

struct FdPlan {
  struct Descriptor {
    int fd = -1;
    std::uint32_t file = 0;
    bool close_on_exec = false;
    friend bool operator==(const Descriptor&, const Descriptor&) = default;
  };

  std::vector<int> close;             // first
  std::vector<std::uint32_t> make;    // ids, ascending; each goes to the descriptor of that number
  std::vector<Descriptor> duplicate;  // fd != file
  std::vector<Descriptor> set_close_on_exec;

  bool empty() const {
    return close.empty() && make.empty() && duplicate.empty() && set_close_on_exec.empty();
  }
  std::string print() const;  // one step per line, for tests and the log
};

FdPlan plan_fd_table(const proto::FdTable& have, const proto::FdTable& want);

// What `changes` (a description with changes_only) speaks of, as it is in `have`, which is in
// order.
proto::FdTable touched_part(const proto::FdTable& have, const proto::FdTable& changes);

// What an open file is made from; two with the same key are interchangeable when new.
std::string make_key(const proto::OpenFile& file);

// F_SETFL can change these (fcntl(2)); O_ASYNC is apart, since it starts signals.
extern const std::uint32_t kSettableFlags;

}  // namespace godwit
