// Resource limits, from /proc/PID/limits: readable where prlimit(2) is refused, while the process
// runs.
#pragma once

#include <sys/types.h>

#include "common/model/describe.h"
#include "proto/rlimits.pb.h"

namespace godwit {

proto::Rlimits describe_rlimits(pid_t host_pid);
proto::Rlimits capture_rlimits(CaptureContext& context);

}  // namespace godwit
