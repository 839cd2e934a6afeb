#include "source-agent/capture/rlimits.h"

#include "common/kernel/proc_limits.h"

namespace godwit {

proto::Rlimits describe_rlimits(pid_t host_pid) {
  proto::Rlimits rlimits;
  for (const ProcLimit& limit : read_proc_limits(host_pid)) {
    proto::Rlimit& message = *rlimits.add_limits();
    message.set_resource(static_cast<std::uint32_t>(limit.resource));
    message.set_soft(limit.soft);
    message.set_hard(limit.hard);
  }
  return rlimits;
}

proto::Rlimits capture_rlimits(CaptureContext& context) {
  return describe_rlimits(context.host_pid);
}

}  // namespace godwit
