// Pairs of unix sockets (socketpair(2)), made inside the skeleton so that SO_PEERCRED names the
// process, filled through duplicates in the agent.
//
// Change class: replace, both ends together. Options, contents and shutdown come in the blackout.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <map>
#include <vector>

#include "common/base/unique_fd.h"
#include "common/remote/remote_task.h"
#include "proto/fd_table.pb.h"

namespace godwit {

class UnixPairs {
 public:
  // Rows that make the sockets of `files` (both ends of a pair, or one of which the other is
  // closed).
  void append_make(SyscallBatch& batch, const std::vector<const proto::OpenFile*>& files);
  // After that batch: takes duplicates, and closes in the skeleton the ends that the source has
  // closed. Returns the descriptor in the skeleton of each file, by id.
  std::map<std::uint32_t, int> collect(RemoteTask& task, const BatchOutcome& outcome);

  void forget(std::uint32_t id) { ends_.erase(id); }
  // The blackout. `skeleton`: the process's pid as the agent sees it.
  void fill(const proto::FdTable& want, pid_t skeleton);
  void close_all() { ends_.clear(); }

 private:
  struct Born {
    DataAt numbers;    // int[2] of socketpair
    RowResult single;  // of socket
    bool pair = false;
    std::uint32_t first = 0;
    std::uint32_t second = 0;  // 0 with has_second false: the source has closed it
    bool has_second = false;
  };
  struct End {
    UniqueFd own;
    UniqueFd closed_peer;  // open until the contents are written
  };

  std::vector<Born> born_;
  std::map<std::uint32_t, End> ends_;
};

}  // namespace godwit
