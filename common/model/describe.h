// The seam between describing and verifying. Declared here, defined in source-agent/capture: the
// destination agent's --verify describes the restored task with the same code that described the
// original, without either agent including the other.
#pragma once

#include <string>
#include <vector>

#include "common/remote/remote_task.h"
#include "proto/snapshot.pb.h"

namespace godwit {

// What a capture of one kind gets. The process is stopped for everything but the maps and
// descriptor lists of a running process (see CaptureDepth).
struct CaptureContext {
  RemoteTask& task;
  pid_t host_pid;
};

// Everything about a stopped process except its pages and its TCP streams' contents.
proto::Process describe_process(CaptureContext& context);

// Differences between two descriptions of what should be the same process, one line each, naming
// the field and both values. Fields that may differ (host pids, times that run on) are left out.
std::vector<std::string> compare_processes(const proto::Process& expected,
                                           const proto::Process& found);

}  // namespace godwit
