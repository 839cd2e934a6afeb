// Descriptors of userfaultfd(2) for the memory of a stopped task, made inside it, duplicated out,
// closed there.
#pragma once

#include "common/base/unique_fd.h"
#include "common/remote/remote_task.h"

namespace godwit {

// For write_protect_arm.h; not enabled yet. Throws Error.
UniqueFd make_tracking_userfaultfd(RemoteTask& task);

// For BlockingTracker, enabled. Faults in the kernel are handed to user space as well, which an
// ordinary user's process may not ask for by itself: it gets /dev/userfaultfd (Linux 6.1) for the
// purpose, over a socket pair of its own. Invalid where the kernel can't, or a security policy
// forbids it.
UniqueFd try_make_blocking_userfaultfd(RemoteTask& task);

}  // namespace godwit
