// Threads: registers, signal mask, pending signals and what the kernel keeps for each.
//
// By ptrace: the register sets, the mask, pending signals, the rseq area. By one batch in the
// thread itself, because nothing else shows it (some 10 us a thread): the alternate stack, the
// address for set_tid_address(2), the parent-death signal; and, since a row costs less than a call
// of the agent, all the rest as well.
#pragma once

#include <map>
#include <set>
#include <string>
#include <vector>

#include "common/model/describe.h"
#include "common/model/findings.h"
#include "proto/threads.pb.h"
#include "source-agent/capture/blocked_calls.h"
#include "source-agent/capture/thread_watch.h"

namespace godwit {

// The rows for one thread. They are the same for every thread: build the batch once, run it in
// each.
class ThreadQuery {
 public:
  explicit ThreadQuery(SyscallBatch& batch);

  // `shared_pending`: the process's own set of pending signals, to tell it from the thread's.
  void read(const BatchOutcome& outcome, std::uint64_t shared_pending, const Tracee& tracee,
            proto::Thread& thread) const;

  // What the kernel keeps per thread and a process is expected to have once. As text, to compare.
  std::string identity(const BatchOutcome& outcome) const;

 private:
  static constexpr std::size_t kCpuBytes = 1024;  // 8,192 processors
  static constexpr std::size_t kNameBytes = 16;

  void read_scheduling(const BatchOutcome& outcome, proto::Scheduling& scheduling) const;

  DataAt alternate_stack_, tid_address_, death_signal_, name_, robust_head_, robust_bytes_;
  DataAt attributes_, cpus_, pending_, uids_, gids_, capabilities_;
  RowResult tid_, timer_slack_, io_priority_, cpus_row_, no_new_privileges_, seccomp_;
};

// A thread as it was a moment ago.
struct KnownThread {
  proto::Thread thread;
  std::string identity;  // ThreadQuery's
  ThreadWatch watch;
};
using KnownThreads = std::map<pid_t, KnownThread>;  // by host tid

// All of them, the leader first. Throws Refused when threads differ in what a process has once
// (thread-credentials, seccomp-filter).
std::vector<proto::Thread> capture_threads(CaptureContext& context, const BlockedCallWatch& watch);
std::vector<proto::Thread> capture_threads(CaptureContext& context);
// Those that are stopped now are known afterwards; they go on after it.
void look_at_threads(CaptureContext& context, const BlockedCallWatch& watch, KnownThreads& known);
// Those that are stopped now are asked once more; what is known of them stays, and is watched anew
// if it is still so.
void look_at_threads_again(CaptureContext& context, KnownThreads& known);
// What capture_threads() gives, with ptrace alone for those that are known: what a batch would tell
// is taken for unchanged until confirm_threads() has looked. One that stands where it stood, with
// the same registers, is only said to be as before. A tenth of the time.
std::vector<proto::Thread> capture_threads_again(CaptureContext& context,
                                                 const BlockedCallWatch& watch,
                                                 const KnownThreads& known);
// What a batch tells of a thread.
struct ThreadAnswer {
  proto::Thread thread;  // without what ptrace tells, but for the rseq area
  std::string identity;
};
ThreadAnswer read_answer(const ThreadQuery& query, const BatchOutcome& outcome,
                         const Tracee& tracee);
// Throws Error naming the thread when something was not as capture_threads_again() took it: asks
// those of `asked` (by host tid) and those that are not known. Signals that came since are no
// difference. `leader`: what the leader has told since the stop; it need not be woken once more.
// The process is stopped, and not frozen.
void confirm_threads(CaptureContext& context, const KnownThreads& known,
                     const std::set<pid_t>& asked, const ThreadAnswer& leader);

// Registers have no meaning while the process runs, and are most of a description.
void leave_out_registers(proto::Process& process);

// Refuses: thread-traced, descriptors-unshared.
void preflight_threads(pid_t host_pid, Findings& findings);

}  // namespace godwit
