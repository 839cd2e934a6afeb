// Interval timers and POSIX timers. The list of POSIX timers comes from /proc/PID/timers
// (proc_pid_timers(5)); how much time is left is known to the process alone (timer_gettime(2),
// getitimer(2)).
#pragma once

#include <string_view>
#include <vector>

#include "common/model/describe.h"
#include "common/model/findings.h"
#include "proto/snapshot.pb.h"
#include "proto/timers.pb.h"

namespace godwit {

// The text of /proc/PID/timers; target thread ids are the reader's. Throws Error on what it does
// not understand.
std::vector<proto::PosixTimer> parse_proc_timers(std::string_view text);

// The rows that ask for the remaining times. The process must stay stopped from here to the run of
// the batch, or timers may come and go in between.
class TimersQuery {
 public:
  TimersQuery(SyscallBatch& batch, pid_t host_pid);
  void read(const BatchOutcome& outcome, proto::Timers& timers) const;

 private:
  struct Posix {
    proto::PosixTimer timer;
    DataAt time;
    RowResult overrun;
  };
  std::vector<DataAt> interval_;
  std::vector<Posix> posix_;
};

proto::Timers capture_timers(CaptureContext& context);

// Timers run on while a stopped process is described. One that ended after it was asked has its
// signal among the pending ones, which are read later: it is asked again, or it would end twice.
void ask_ended_timers_again(CaptureContext& context, proto::Process& process);

// Refuses: thread-clock-timer (whose time it measures cannot be told), device-clock-timer.
void preflight_timers(pid_t host_pid, Findings& findings);

}  // namespace godwit
