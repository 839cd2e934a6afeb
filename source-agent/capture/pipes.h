// Ends of pipes (pipe(7), proto/pipes.proto). What waits in a pipe is duplicated with tee(2), never
// consumed.
#pragma once

#include <memory>

#include "common/base/unique_fd.h"
#include "proto/pipes.pb.h"
#include "source-agent/capture/fd_facts.h"

namespace godwit {

bool is_pipe(const FdFacts& facts);

// A pipe and a block of our own, for looking into one pipe after the other.
class PipeReader {
 public:
  // What waits in `pipe`, and where one read would end; how many bytes.
  ssize_t read(int pipe, const std::string& name, proto::PipeEnd& out);

 private:
  void make_room(int capacity, const std::string& name);

  UniqueFd read_end_;
  UniqueFd write_end_;
  int capacity_ = 0;
  std::unique_ptr<char[]> block_;
};

// Needs facts.copy for the capacity and the contents; without it both are left out. `contents`:
// this end carries what waits in the pipe; `exact`: of a process that is stopped.
// Throws Error.
proto::PipeEnd capture_pipe_end(const FdFacts& facts, bool contents, bool exact,
                                PipeReader& reader);

}  // namespace godwit
