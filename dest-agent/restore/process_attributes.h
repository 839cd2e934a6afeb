// Attributes that belong to no other kind (prctl(2), personality(2), membarrier(2), /proc/PID).
// Class: in place, but for what a change of credentials takes away (dumpable) or what cannot be
// taken back, which come last.
#pragma once

#include <sys/types.h>

#include "common/model/findings.h"
#include "common/remote/syscall_batch.h"
#include "proto/process_attributes.pb.h"

namespace godwit {

// For a new skeleton: sets everything, whatever it inherited.
void plan_process_attributes(const proto::ProcessAttributes& want, SyscallBatch& batch);
// Only what differs.
void plan_process_attributes(const proto::ProcessAttributes& have,
                             const proto::ProcessAttributes& want, SyscallBatch& batch);
// In the leader, after the credentials and when every page is placed.
void plan_process_attributes_last(const proto::ProcessAttributes& want, SyscallBatch& batch);
// The time stamp counter's mode is a thread's own: runs in each thread. Nothing to do mostly.
void plan_tsc_mode(const proto::ProcessAttributes& want, SyscallBatch& batch);

// What is set from outside through /proc/PID: oom_score_adj and coredump_filter, where they differ.
// What may not be lowered is logged, not thrown.
void apply_process_attributes(pid_t host_pid, const proto::ProcessAttributes& want);

// Warns: oom-score-lower, dumpable-2, memory-merge.
void check_process_attributes(const proto::ProcessAttributes& want, Findings& findings);

}  // namespace godwit
