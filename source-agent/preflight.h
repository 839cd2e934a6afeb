// What about the process itself stands against moving it. Reads /proc only and never stops the
// task.
#pragma once

#include <sys/types.h>

#include "common/model/findings.h"
#include "proto/control.pb.h"

namespace godwit {

// Everything that can be said without knowing the destination.
//
// What makes every other question meaningless is reported alone: agent-lacks-privilege, the ids of
// preflight_task_identity (which this calls; a process that is none), pid-is-self, pid-is-ancestor.
// Otherwise all of: already-traced, pid-is-stopped, foreign-architecture (preflight_task_identity),
// process-not-accessible, thread-is-traced, process-has-children, vfork-in-progress,
// foreign-mount-namespace and the same for net, user, ipc, uts, cgroup.
Findings preflight_process(pid_t pid);
// What was found there is of that kind: there is no process that anything else could be said about.
bool stands_alone(const Findings& findings);

// Thread ids that the destination's kernel can't give again (thread-id-too-large): its pid_max is
// smaller.
void preflight_thread_ids(pid_t pid, const proto::HostFeatures& destination, Findings& findings);

}  // namespace godwit
