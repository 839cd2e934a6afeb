// What a process does about signals, and what is pending for all of it.
//
// Actions are known to the process alone (rt_sigaction(2)); pending signals are peeked by ptrace,
// not consumed (PTRACE_PEEKSIGINFO, ptrace(2)).
#pragma once

#include <signal.h>

#include <vector>

#include "common/model/describe.h"
#include "proto/signals.pb.h"

namespace godwit {

// struct kernel_sigaction: what the system call reads and writes, not what libc's sigaction is.
struct KernelSignalAction {
  std::uint64_t handler = 0;
  std::uint64_t flags = 0;
  std::uint64_t restorer = 0;
  std::uint64_t mask = 0;
};

// The rows that ask for the actions of all signals but SIGKILL and SIGSTOP.
class SignalsQuery {
 public:
  explicit SignalsQuery(SyscallBatch& batch);
  void read(const BatchOutcome& outcome, proto::Signals& signals) const;

 private:
  DataAt actions_;
};

// Pending signals of a thread, or the shared ones of its process. `pending_bits` is the kernel's
// set (bit n-1 is signal n): a signal that was sent while the queue was full is in the set only,
// and comes out as the kernel would deliver it, from nobody.
std::vector<proto::PendingSignal> describe_pending(const std::vector<siginfo_t>& queued,
                                                   std::uint64_t pending_bits);

// Adds what is pending for the whole process; the process is stopped.
void capture_shared_pending(CaptureContext& context, proto::Signals& signals);

proto::Signals capture_signals(CaptureContext& context);

}  // namespace godwit
