// Describes one process again and again: once whole, then what may have changed while it runs,
// then, in the blackout, what changed since.
#pragma once

#include "common/model/describe.h"
#include "common/model/findings.h"
#include "source-agent/capture/blocked_calls.h"
#include "source-agent/capture/fd_table.h"
#include "source-agent/capture/mappings.h"

namespace godwit {

class ProcessCapture {
 public:
  explicit ProcessCapture(pid_t host_pid);

  // What /proc tells without stopping the process: for preflight.
  proto::Process describe_outside();
  // Everything but TCP streams; the process is stopped.
  proto::Process describe(RemoteTask& task);
  // The process runs: areas and descriptors anew, the rest as it was last described.
  proto::Process describe_running(RemoteTask& task);
  // Shortly before the switch: duplicates, flags and watches, so that describe_final() reads
  // little.
  void refresh();
  // The blackout: everything, with TCP streams (whose sockets must be in repair mode).
  // `mappings` are those of describe_mappings() since the stop.
  proto::Process describe_final(RemoteTask& task, proto::Mappings mappings);
  // Right after the stop, before anything runs in the task.
  void note_stopped();
  // The areas only: the process is stopped or runs.
  proto::Mappings describe_mappings(RemoteTask& task) { return mappings_.describe(&task); }

  FdTableCapture& fd_table() { return fd_table_; }

 private:
  void describe_state(RemoteTask& task, proto::Process& process);

  pid_t host_pid_;
  MappingsCapture mappings_;
  FdTableCapture fd_table_;
  BlockedCallWatch blocked_calls_;
  proto::Process last_;
};

// Everything that can't be moved, of every kind, at once. Reads procfs only.
void preflight_process_kinds(pid_t host_pid, Findings& findings);

}  // namespace godwit
