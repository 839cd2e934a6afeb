// What belongs to no other kind: prctl(2), personality(2), membarrier(2), /proc/PID/oom_score_adj,
// /proc/PID/coredump_filter, the seccomp mode, and register state that was asked for
// (Documentation/arch/x86/xstate.rst).
#pragma once

#include <optional>
#include <utility>
#include <vector>

#include "common/model/describe.h"
#include "common/model/findings.h"
#include "proto/process_attributes.pb.h"

namespace godwit {

class ProcessAttributesQuery {
 public:
  explicit ProcessAttributesQuery(SyscallBatch& batch);
  // Also reads what procfs shows of the process. Throws Refused for seccomp (seccomp-filter) and
  // for state that had to be asked for (asked-register-state).
  void read(const BatchOutcome& outcome, pid_t host_pid,
            proto::ProcessAttributes& attributes) const;

 private:
  RowResult personality_;
  RowResult dumpable_;
  RowResult thp_;
  RowResult keep_capabilities_;
  RowResult merge_;
  RowResult deny_write_execute_;
  RowResult tsc_row_;
  std::optional<RowResult> asked_row_;
  // A row that does not fail, and the registration that shows in it; 0: the row tells all of them.
  std::vector<std::pair<RowResult, std::uint32_t>> barriers_;
  DataAt subreaper_;
  DataAt tsc_;
  DataAt asked_;
};

// `permitted`: components that the process may use; `asked`: those that a program has to ask for.
// Throws Refused.
void refuse_asked_state(pid_t host_pid, std::uint64_t permitted, std::uint64_t asked);

proto::ProcessAttributes capture_process_attributes(CaptureContext& context);

// Refuses: seccomp-filter, seccomp-strict.
void preflight_process_attributes(pid_t host_pid, Findings& findings);

}  // namespace godwit
