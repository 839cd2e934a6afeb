// Interval timers and POSIX timers at the destination (timer_create(2), setitimer(2)).
//
// Class: POSIX timers are created ahead of the switch, disarmed, and replaced when they changed;
// all timers are armed at cut-over with the time that was left. A timer keeps its number: by
// PR_TIMER_CREATE_RESTORE_IDS (Linux 6.16), tried, not assumed; else by creating and deleting until
// the kernel's counter arrives there, within a bound.
// An interval timer whose signal is still pending stands still: the kernel starts it anew when the
// signal is taken. Such a timer goes off once more at the destination, with its period where it
// was, so that the pending signal is its own again and a second one only counts as an overrun.
// What cannot be carried: the overrun count of the last delivery (timer_getoverrun(2) starts at 0),
// and that a timer had been set to an absolute time (a clock that is set later does not move it).
// Timers on processor time keep their remaining time; the clock itself starts at zero.
#pragma once

#include <cstdint>
#include <map>

#include "common/remote/remote_task.h"
#include "proto/snapshot.pb.h"
#include "proto/timers.pb.h"

namespace godwit {

// How a timer gets its number: kProbe finds out what the kernel can do.
enum class TimerNumbers { kProbe, kByCounting };

// Creates, replaces and deletes timers until the task has `want`'s, disarmed. The threads that
// timers notify must exist. Throws Error naming the timer whose number cannot be had.
void restore_posix_timers(RemoteTask& task, const proto::Timers& have, const proto::Timers& want,
                          TimerNumbers numbers = TimerNumbers::kProbe);

// The numbers of the interval timers that wait for their signal to be taken, each with what its
// clock showed in the task at `captured_ns` (CLOCK_MONOTONIC, ns), in ns. Runs nothing in the task
// when there is none.
using WaitingTimers = std::map<int, std::int64_t>;
WaitingTimers find_waiting_timers(RemoteTask& task, const proto::Process& want,
                                  std::int64_t captured_ns);
// Takes the signals that these timers will send anew away from those that are pending.
void remove_signals_of(const WaitingTimers& waiting, proto::Process& process);

// At cut-over, once the timers exist and the pending signals are queued. `elapsed_ns` has passed
// since the capture: taken off what was left of timers that run on real time.
void plan_timers_armed(const proto::Timers& want, const WaitingTimers& waiting,
                       std::int64_t elapsed_ns, SyscallBatch& batch);

}  // namespace godwit
