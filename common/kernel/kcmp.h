// kcmp(2): do two descriptors share one open file?
#pragma once

#include <sys/types.h>

namespace godwit {

// An order over open files: 0 when descriptor `fd_a` of process `a` and `fd_b` of process `b` share
// one open file, else -1 or 1, the same way round every time (for sorting). Throws Error naming
// both (EBADF: one of them is closed).
int compare_open_files(pid_t a, int fd_a, pid_t b, int fd_b);
// The same; -2 when one of them is closed or a process is gone.
int try_compare_open_files(pid_t a, int fd_a, pid_t b, int fd_b);

// Is descriptor `fd` of the process the file that its epoll `epoll_fd` holds as the `occurrence`th
// target (from 0) under the number `target_fd`? False also when there is no such target.
bool is_epoll_target(pid_t pid, int epoll_fd, int target_fd, unsigned occurrence, int fd);

}  // namespace godwit
