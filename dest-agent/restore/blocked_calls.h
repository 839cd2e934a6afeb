// Puts a thread back into the sleep that the move interrupted.
//
// nanosleep, poll and futex with a relative timeout go on through restart_syscall(2), from a
// deadline that only the kernel has. So the thread makes its call once more, here, with the time
// that was left, and is interrupted at once: now this kernel has the deadline, and the thread's
// registers become those of a thread that was stopped in its original call. Nothing of it can be
// seen by the program: the timeout in memory is written over for the moment of the call and put
// back; the argument of poll is a register and put back likewise.
//
// A call that does not sleep any more (the word of the futex has changed, a descriptor is ready)
// simply ends with the result it has, as it would have there.
// Not carried from move to move: a poll or futex that is moved twice in one call counts its time
// from the latest restart, as the kernel shows no more of it than that.
#pragma once

#include <cstdint>

#include "common/remote/remote_task.h"
#include "proto/threads.pb.h"

namespace godwit {

// True when `want` needs this: a relative timeout whose rest is known, and not where the program
// would look for it anyway (nanosleep with both arguments the same).
bool needs_resumed_call(const proto::Thread& want);

// After apply_thread_registers(), as the last thing that is done with this thread. Its memory must
// be in place. `elapsed_ns`: since the capture. Returns false, with the thread left to make its
// call from the beginning, where the way is barred (memory that cannot be written).
bool resume_blocked_call(RemoteTask& task, Tracee& tracee, const proto::Thread& want,
                         std::int64_t elapsed_ns);

}  // namespace godwit
