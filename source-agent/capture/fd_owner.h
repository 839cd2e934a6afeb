// Who gets SIGIO for an open file (fcntl(2), F_GETOWN_EX and F_GETSIG).
#pragma once

#include "common/model/findings.h"
#include "proto/fd_table.pb.h"
#include "source-agent/capture/fd_facts.h"

namespace godwit {

// Needs facts.copy. Ids are given as the process sees them; an owner outside the process is
// refused. Leaves `out` without an owner when there is none.
void capture_file_owner(const FdFacts& facts, proto::OpenFile& out, Findings& findings);
// Somebody gets it, or another signal is set.
bool has_file_owner(int agent_fd);

}  // namespace godwit
