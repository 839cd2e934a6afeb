// Working directory, root and umask (chdir(2), chroot(2), umask(2)). Class: in place, but a changed
// root cannot be taken back: that task is rebuilt.
#pragma once

#include "common/model/findings.h"
#include "common/remote/syscall_batch.h"
#include "proto/filesystem_context.pb.h"

namespace godwit {

// `have` is what a new skeleton inherits, filesystem_context_here(), or the last one planned. Runs
// as root. Throws Error when `have` is inside another root than `want`.
void plan_filesystem_context(const proto::FilesystemContext& have,
                             const proto::FilesystemContext& want, SyscallBatch& batch);
// An agent's child starts as nothing in particular: everything will be set.
proto::FilesystemContext filesystem_context_here();

// Refuses: directory-missing.
void check_filesystem_context(const proto::FilesystemContext& want, Findings& findings);

}  // namespace godwit
