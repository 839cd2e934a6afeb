// Ends of pipes (pipe(7), proto/pipes.proto). What waits in a pipe is duplicated with tee(2), never
// consumed.
#pragma once

#include "proto/pipes.pb.h"
#include "source-agent/capture/fd_facts.h"

namespace godwit {

bool is_pipe(const FdFacts& facts);

// Needs facts.copy for the capacity and the contents; without it both are left out. `contents`:
// this end carries what waits in the pipe. Throws Error.
proto::PipeEnd capture_pipe_end(const FdFacts& facts, bool contents);

}  // namespace godwit
