// pidfd_open(2), pidfd_getfd(2), pidfd_send_signal(2): a process held by a descriptor, so that its
// number cannot come to mean another one.
#pragma once

#include <sys/types.h>

#include "common/base/unique_fd.h"

namespace godwit {

// Throws Error (ESRCH: no such process).
UniqueFd open_pidfd(pid_t pid);
// A duplicate of the process's descriptor in the caller, O_CLOEXEC. Needs PTRACE_MODE_ATTACH.
// Throws Error (EBADF: it has no such descriptor).
UniqueFd copy_fd_of(const UniqueFd& pidfd, int fd);
// False when the process is gone.
bool try_send_signal(const UniqueFd& pidfd, int signal);

}  // namespace godwit
