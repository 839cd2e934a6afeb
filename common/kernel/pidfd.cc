#include "common/kernel/pidfd.h"

#include <sys/syscall.h>

namespace godwit {

UniqueFd open_pidfd(pid_t pid) {
  UniqueFd fd(static_cast<int>(syscall(SYS_pidfd_open, pid, 0)));
  if (!fd.valid()) throw_system("pidfd_open of process {}", pid);
  return fd;
}

UniqueFd copy_fd_of(const UniqueFd& pidfd, int fd) {
  UniqueFd copy(static_cast<int>(syscall(SYS_pidfd_getfd, pidfd.get(), fd, 0)));
  if (!copy.valid()) throw_system("pidfd_getfd of descriptor {}", fd);
  return copy;
}

bool try_send_signal(const UniqueFd& pidfd, int signal) {
  if (syscall(SYS_pidfd_send_signal, pidfd.get(), signal, nullptr, 0) == 0) return true;
  if (errno == ESRCH) return false;
  throw_system("send signal {} to a process", signal);
}

}  // namespace godwit
