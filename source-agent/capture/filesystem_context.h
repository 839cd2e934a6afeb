// Where the process's paths start: the links /proc/PID/cwd and /proc/PID/root, and Umask of
// /proc/PID/status. Both paths are as the agent sees them, from the host's root.
#pragma once

#include <sys/types.h>

#include "common/model/describe.h"
#include "common/model/findings.h"
#include "proto/filesystem_context.pb.h"

namespace godwit {

// Throws Refused for a directory that has been removed (directory-deleted).
proto::FilesystemContext describe_filesystem_context(pid_t host_pid);
proto::FilesystemContext capture_filesystem_context(CaptureContext& context);

// Refuses: directory-deleted, filesystem-context-unshared (a thread with its own, CLONE_FS not
// set).
void preflight_filesystem_context(pid_t host_pid, Findings& findings);

}  // namespace godwit
