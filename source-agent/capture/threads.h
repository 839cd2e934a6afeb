// Threads: registers, signal mask, pending signals and what the kernel keeps for each.
//
// By ptrace: the register sets, the mask, pending signals, the rseq area. By one batch in the
// thread itself, because nothing else shows it (some 10 us a thread): the alternate stack, the
// address for set_tid_address(2), the parent-death signal; and, since a row costs less than a call
// of the agent, all the rest as well.
#pragma once

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "common/model/describe.h"
#include "common/model/findings.h"
#include "proto/threads.pb.h"
#include "source-agent/capture/blocked_calls.h"

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

// Threads as they were a moment ago, by host tid.
using KnownThreads = std::map<pid_t, proto::Thread>;

// All of them, the leader first. Throws Refused when threads differ in what a process has once
// (thread-credentials, seccomp-filter).
std::vector<proto::Thread> capture_threads(CaptureContext& context, const BlockedCallWatch& watch);
std::vector<proto::Thread> capture_threads(CaptureContext& context);
// The same, with ptrace alone for those that are known: what a batch would tell is taken for
// unchanged until find_changed_threads() has looked. One that stands where it stood, with the same
// registers, is only said to be as before. A tenth of the time.
std::vector<proto::Thread> capture_threads_again(CaptureContext& context,
                                                 const BlockedCallWatch& watch,
                                                 const KnownThreads& known);
// What was not as capture_threads_again() took it, a sentence for each thread. Signals that came
// since are no difference. `is_asked`: which threads, by host tid. The process is stopped, and not
// frozen.
std::vector<std::string> find_changed_threads(CaptureContext& context, const KnownThreads& known,
                                              const std::function<bool(pid_t)>& is_asked);

// Registers have no meaning while the process runs, and are most of a description.
void leave_out_registers(proto::Process& process);

// Refuses: thread-traced, descriptors-unshared.
void preflight_threads(pid_t host_pid, Findings& findings);

}  // namespace godwit
