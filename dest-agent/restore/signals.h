// Rows that give a task its signal actions and what was pending for it.
//
// Class: actions are changed in place at any time; pending signals at cut-over only. Pending
// signals are queued by the task itself (rt_sigqueueinfo(2) lets nobody else send what looks like
// the kernel's own signals), while RemoteTask has all of its signals blocked, so that none is
// delivered or, being ignored, dropped.
#pragma once

#include <signal.h>
#include <sys/types.h>

#include "common/remote/syscall_batch.h"
#include "proto/signals.pb.h"

namespace godwit {

// For a new skeleton: every action becomes SIG_DFL, as an empty Signals says.
void plan_signal_defaults(SyscallBatch& batch);
// The actions that differ. Planning the same twice plans nothing.
void plan_signals(const proto::Signals& have, const proto::Signals& want, SyscallBatch& batch);
// Throws Error for a siginfo of another size.
siginfo_t to_siginfo(const proto::PendingSignal& pending);
// At cut-over, in the leader. `pid` and `tid` are the task's own numbers.
void plan_shared_pending(const proto::Signals& want, pid_t pid, SyscallBatch& batch);
// The same for one thread, in that thread.
void plan_pending(pid_t pid, pid_t tid,
                  const google::protobuf::RepeatedPtrField<proto::PendingSignal>& pending,
                  SyscallBatch& batch);

}  // namespace godwit
