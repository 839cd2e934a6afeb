// Pipes, made in the agent and handed to the skeleton end by end.
//
// Change class: replace. Capacity and contents change in place. Every OpenFile of an end is an
// open file of its own: the first gets what pipe2(2) made, a further one opens the end again
// through /proc/self/fd, as it must have been opened at the source.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "common/base/unique_fd.h"
#include "proto/fd_table.pb.h"

namespace godwit {

class PipeStore {
 public:
  // An end for `file`, owned by the caller. Throws Error.
  UniqueFd end_for(const proto::OpenFile& file);
  // That file is closed in the skeleton: the end may be given to another.
  void forget(std::uint32_t id);
  // Forgets the pipes that no file of `want` refers to.
  void keep_only(const proto::FdTable& want);
  // Sets capacity and contents of every pipe of which an end in `want` tells them, where they are
  // others by now.
  void fill(const proto::FdTable& want);
  // The agent's own ends go: readers see the end of file where no writer is left.
  void close_all() { pipes_.clear(); }

 private:
  struct Pipe {
    UniqueFd read_end;
    UniqueFd write_end;
    bool read_end_given = false;
    bool write_end_given = false;
    int capacity = 0;  // 0: not known
    std::string contents;
    std::vector<std::uint32_t> packets;
  };

  void set_contents(Pipe& pipe, const proto::OpenFile& file, bool packet_mode);

  struct Given {
    std::uint64_t pipe = 0;
    bool write_end = false;
  };

  std::map<std::uint64_t, Pipe> pipes_;   // by the source's inode
  std::map<std::uint32_t, Given> given_;  // what pipe2(2) made, by the id of its file
};

}  // namespace godwit
