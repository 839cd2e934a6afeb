// Who a process is: /proc/PID/status, /proc/PID/stat and /proc/PID/exe. Nothing is asked of the
// process itself, so that it may run.
#pragma once

#include <sys/types.h>

#include "common/kernel/proc_stat.h"
#include "common/model/describe.h"
#include "common/model/findings.h"
#include "proto/task_identity.pb.h"

namespace godwit {

// Throws Error when the process is gone.
proto::TaskIdentity describe_task_identity(pid_t host_pid);
proto::TaskIdentity capture_task_identity(CaptureContext& context);

// Refuses what is no ordinary process: no-such-pid, not-a-process, pid-is-init, pid-is-zombie,
// pid-is-kernel-thread, already-traced, pid-is-stopped, leader-exited, foreign-architecture.
void preflight_task_identity(pid_t host_pid, Findings& findings);
// pid-is-kernel-thread of these. True when it is one.
bool refuse_kernel_thread(pid_t host_pid, const ProcStat& stat, Findings& findings);

}  // namespace godwit
