// Event counters (eventfd(2), proto/eventfds.proto), from /proc/PID/fdinfo alone.
#pragma once

#include "common/model/findings.h"
#include "proto/eventfds.pb.h"
#include "source-agent/capture/fd_facts.h"

namespace godwit {

bool is_eventfd(const FdFacts& facts);
// Needs a kernel that tells semaphores from counters (6.5), else it is refused.
proto::EventFd capture_eventfd(const FdFacts& facts, Findings& findings);

}  // namespace godwit
