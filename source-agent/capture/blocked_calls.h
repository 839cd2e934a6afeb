// What a sleeping call is, and how long it has still to sleep.
//
// nanosleep, poll and futex with a relative timeout go on through restart_syscall(2) after a stop:
// the kernel keeps the call and its deadline where nobody can read them, and a thread elsewhere
// that makes restart_syscall gets EINTR. So every stop is watched from the first on:
//  - what the call is: the registers of the first stop that it meets have its number; when somebody
//    else stopped the thread before us, the kernel's stack (/proc/PID/task/TID/stack) tells;
//  - when it ends: nanosleep and clock_nanosleep with a second argument had the rest written there
//    by the kernel; for the others the scheduler shows (/proc/PID/task/TID/sched, sched(7)) when
//    the thread last ran, which for one that sleeps is when its call began, to within
//    microseconds; where the kernel does not show that, when an observer first met it there.
// A call whose begin is not known begins anew with its whole time: late, never early.
#pragma once

#include <sys/types.h>

#include <map>
#include <optional>
#include <span>
#include <string_view>

#include "common/remote/remote_task.h"
#include "proto/threads.pb.h"

namespace godwit {

// A line of /proc/PID/task/TID/syscall of a thread that is blocked in a call.
struct BlockedIn {
  std::int64_t number = -1;
  std::uint64_t arguments[6] = {};
  std::uint64_t stack_pointer = 0;
  std::uint64_t instruction_pointer = 0;

  // The same call of the same place; the number is left out, as it becomes restart_syscall's.
  bool same_place(const BlockedIn& other) const;
};
// Nothing for a thread that runs or is outside a call.
std::optional<BlockedIn> parse_blocked_in(std::string_view text);

// Follows each thread's sleeping call through the stops of a migration.
class BlockedCallWatch {
 public:
  // Looks at every thread of the process, by procfs alone, while they run; before every stop.
  // Costs some 10 us a thread, and 30 more for those that sleep with a relative timeout. Not part
  // of the blackout.
  void observe(pid_t host_pid);
  // The same of some threads, before RemoteTask::stop_some().
  void observe(pid_t host_pid, std::span<const pid_t> host_tids);
  // Whether that was done since the last stop.
  bool has_observed() const { return has_observed_; }
  // Right after every stop, before any batch. A thread whose call cannot be told goes back into it
  // for some microseconds.
  void note_stop(RemoteTask& task);
  // After RemoteTask::stop_some(): the others stay as they were noted.
  void note_stop_of_some(RemoteTask& task);

  // When (CLOCK_MONOTONIC, ns) the thread entered the call it is in.
  std::optional<std::int64_t> begun_ns(pid_t host_tid, const BlockedIn& call) const;
  // The call's own number, when a stop has turned it into restart_syscall.
  std::optional<std::int64_t> number(pid_t host_tid, const BlockedIn& call) const;

 private:
  // Between two stops.
  struct Sight {
    BlockedIn call;
    std::int64_t begun_ns = 0;
    std::uint64_t switches = 0;
  };
  // From the first stop on that it met.
  struct Call {
    BlockedIn place;
    std::int64_t number = -1;
    std::optional<std::int64_t> begun_ns;
  };
  using ClockOffsets = std::map<int, std::optional<std::int64_t>>;  // by processor
  void observe_thread(pid_t host_pid, pid_t host_tid, ClockOffsets& offsets);
  void note_threads(RemoteTask& task);
  std::optional<Call> call_of(pid_t host_pid, const Tracee& tracee) const;
  void look_into_call(RemoteTask& task, pid_t host_tid);

  std::map<pid_t, Sight> sights_;
  std::map<pid_t, Call> calls_;
  bool has_observed_ = false;
};

// The length of a relative timeout, or nothing: no timeout, or an absolute one, which needs no
// care.
std::optional<std::int64_t> relative_timeout_ns(const RemoteTask& task,
                                                const arch::InterruptedCall& call);

// The message for a thread that stopped in `interrupted`. `registers` are those that will be
// restored: when the call's own number had been lost (restart_syscall), they get it back.
proto::BlockedCall describe_blocked_call(const RemoteTask& task, const Tracee& tracee,
                                         const arch::InterruptedCall& interrupted,
                                         arch::Registers& registers, const BlockedCallWatch& watch);

}  // namespace godwit
