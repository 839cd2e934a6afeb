// Time namespaces (time_namespaces(7)): offsets of CLOCK_MONOTONIC and CLOCK_BOOTTIME, nanoseconds.
#pragma once

#include <sys/types.h>

#include <cstdint>

namespace godwit {

struct TimeOffsets {
  std::int64_t monotonic_ns = 0;
  std::int64_t boottime_ns = 0;
};

// The offsets that a task sees relative to the host's clocks. Zero where the kernel has no time
// namespaces. Throws Error naming the pid when it is gone.
TimeOffsets read_time_offsets(pid_t pid);

// Children made from now on live in a new time namespace with these offsets. The calling process
// itself stays where it is. Throws Error.
void enter_time_namespace_for_children(const TimeOffsets& offsets);

// Ends that: children live where the caller does. Linux before 6.3 starts no thread in between.
// Only for a process with one thread. Throws Error.
void leave_time_namespace_for_children();

// A clock as processes with these offsets see it, now.
std::int64_t clock_with_offsets(int clock, const TimeOffsets& offsets);
// It goes on evenly, and nobody sets it: a moment may be named or counted from now, all the same.
bool is_steady_clock(int clock);

}  // namespace godwit
