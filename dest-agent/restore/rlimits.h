// Resource limits at the destination (getrlimit(2)). Class: cut-over, because a low limit on
// descriptors or address space would stand in the way of building; after pending signals, of which
// a limit may allow fewer than there are. Hard limits only go down: raising one needs
// CAP_SYS_RESOURCE, which the agent may lack.
#pragma once

#include "common/model/findings.h"
#include "common/remote/syscall_batch.h"
#include "proto/rlimits.pb.h"

namespace godwit {

// What a new skeleton inherits: the agent's own limits.
proto::Rlimits rlimits_here();
// Whether this agent may raise hard limits, and with it the tasks that it makes.
bool may_raise_hard_limits();

// For building: the soft limit on descriptors goes up to `here`'s hard one.
void plan_rlimits_for_building(const proto::Rlimits& here, SyscallBatch& batch);
// Runs in the task, before its credentials are taken away. `have` is rlimits_here() the first time.
// A limit that cannot be reached becomes the nearest that can (check_rlimits told it beforehand).
void plan_rlimits(const proto::Rlimits& have, const proto::Rlimits& want, bool may_raise,
                  SyscallBatch& batch);
// Warns: rlimit-narrowed, for each limit that is higher than the destination allows.
void check_rlimits(const proto::Rlimits& here, const proto::Rlimits& want, bool may_raise,
                   Findings& findings);

}  // namespace godwit
