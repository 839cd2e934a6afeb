// Pipes, made in the agent and handed to the skeleton end by end.
//
// Change class: replace. Capacity and contents come in the blackout. Every OpenFile of an end is an
// open file of its own: the first gets what pipe2(2) made, a further one opens the end again
// through /proc/self/fd, as it must have been opened at the source.
#pragma once

#include <map>
#include <set>

#include "common/base/unique_fd.h"
#include "proto/fd_table.pb.h"

namespace godwit {

class PipeStore {
 public:
  // An end for `file`, owned by the caller. Throws Error.
  UniqueFd end_for(const proto::OpenFile& file);
  // Forgets the pipes that no file of `want` refers to.
  void keep_only(const proto::FdTable& want);
  // The blackout: sets capacity and writes contents of every pipe. The status flags of the writing
  // ends are used on the way: set them afterwards.
  void fill(const proto::FdTable& want);
  // The agent's own ends go: readers see the end of file where no writer is left.
  void close_all() { pipes_.clear(); }

 private:
  struct Pipe {
    UniqueFd read_end;
    UniqueFd write_end;
    bool read_end_given = false;
    bool write_end_given = false;
  };

  void write_contents(const Pipe& pipe, const proto::OpenFile& file, bool packet_mode);

  std::map<std::uint64_t, Pipe> pipes_;  // by the source's inode
};

}  // namespace godwit
