// Short turns on the processor (sched_setattr(2), sched_runtime of SCHED_OTHER since Linux 6.12):
// who takes them is let on at once when it wakes up, and does not keep others waiting either.
//
// The scheduler lets a thread finish its turn, some three milliseconds, before another that woke up
// meanwhile. In a chain of wake-ups, which a blackout is, that is paid again and again.
#pragma once

namespace godwit {

// The calling thread and those that it starts. `background`: it works through what there is
// (SCHED_BATCH) instead of answering. Older kernels take the policy alone. Throws nothing.
void take_short_turns(bool background = false) noexcept;

}  // namespace godwit
