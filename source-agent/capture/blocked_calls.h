// How long a sleeping call has still to sleep.
//
// nanosleep, poll and futex with a relative timeout go on through restart_syscall(2) after a stop:
// the kernel keeps their deadline where nobody can read it. Three sources tell it all the same:
//  - nanosleep and clock_nanosleep with a second argument: the kernel wrote the rest there;
//  - the scheduler: /proc/PID/task/TID/sched (sched(7)) shows when the thread last ran, which for a
//    thread that sleeps is when its call began, to within microseconds;
//  - where the kernel does not show that: when an observer first met the thread in this call.
// Without any the call begins anew with its whole time.
#pragma once

#include <sys/types.h>

#include <map>
#include <optional>
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

// Watches threads from outside, by procfs alone, while they run: never stops them. Observe shortly
// before every stop, at least before the last one; what happens later cannot be told any more.
class BlockedCallWatch {
 public:
  // Looks at every thread of the process. Costs some 10 us a thread, and 30 more for those that
  // sleep with a relative timeout. Not part of the blackout.
  void observe(pid_t host_pid);
  // Right after the stop, before any batch: forgets the threads that were awake in between.
  void confirm(pid_t host_pid);

  // When (CLOCK_MONOTONIC, ns) the thread entered the call it is in.
  std::optional<std::int64_t> begun_ns(pid_t host_tid, const BlockedIn& call) const;
  // The call's own number, when a stop has turned it into restart_syscall.
  std::optional<std::int64_t> number(pid_t host_tid, const BlockedIn& call) const;

 private:
  struct Entry {
    BlockedIn call;
    std::int64_t begun_ns = 0;
    std::uint64_t switches = 0;
  };
  void observe_thread(const std::string& directory, pid_t host_tid);
  std::map<pid_t, Entry> entries_;
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
