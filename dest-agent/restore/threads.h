// Threads at the destination: what each sets for itself by rows, and what is set from outside by
// ptrace.
//
// Class: in place (names, scheduling, stacks); registers, mask and pending signals at
// cut-over. Order at cut-over, for each thread:
//   plan_thread (differences), pages in place, credentials, plan_thread_last, plan_pending,
//   then apply_thread_registers, after which no batch may run in it.
#pragma once

#include <optional>
#include <vector>

#include "common/model/findings.h"
#include "common/remote/remote_task.h"
#include "proto/threads.pb.h"

namespace godwit {

// A new thread of a skeleton: nothing is known of it, everything will be set.
void plan_new_thread(const proto::Thread& want, const std::vector<std::uint32_t>& online,
                     SyscallBatch& batch);
// Only what differs. `online`: the processors of this host; an affinity that names none of them
// becomes all of them.
void plan_thread(const proto::Thread& have, const proto::Thread& want,
                 const std::vector<std::uint32_t>& online, SyscallBatch& batch);

// Ends the registration that the thread inherited (rseq(2) by its maker's libc). To be done before
// that memory is unmapped: the kernel writes to the area whenever the thread returns from it.
void plan_rseq_removal(const std::optional<RseqConfiguration>& have, SyscallBatch& batch);
// After credentials and pages: the parent-death signal, which a change of ids takes away, and what
// the kernel writes to: the rseq area, and at the thread's end its robust list and its id's place.
void plan_thread_last(const proto::Thread& want, SyscallBatch& batch);

// Takes back what plan_thread_last() registered, in a thread that is about to end: its memory may
// be another thread's by now.
void plan_thread_end(const proto::Thread& have, SyscallBatch& batch);

// Vector state, mask and general registers. Throws Error when the sizes are of another processor.
void apply_thread_registers(Tracee& tracee, const proto::Thread& want);

// Warns: affinity-narrowed. Refuses: vector-state (this processor has less).
void check_thread(const proto::Thread& want, const std::vector<std::uint32_t>& online,
                  Findings& findings);

}  // namespace godwit
