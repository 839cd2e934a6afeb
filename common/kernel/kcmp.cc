#include "common/kernel/kcmp.h"

#include <linux/kcmp.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "common/base/error.h"

namespace godwit {

int try_compare_open_files(pid_t a, int fd_a, pid_t b, int fd_b) {
  const long order = syscall(SYS_kcmp, a, b, KCMP_FILE, fd_a, fd_b);
  if (order < 0) {
    if (errno == EBADF || errno == ESRCH) return -2;
    throw_system("kcmp fd {} of process {} with fd {} of process {}", fd_a, a, fd_b, b);
  }
  if (order == 0) return 0;
  if (order == 3) fail("kcmp gives no order of fd {} and fd {} of process {}", fd_a, fd_b, a);
  return order == 1 ? -1 : 1;
}

int compare_open_files(pid_t a, int fd_a, pid_t b, int fd_b) {
  const int order = try_compare_open_files(a, fd_a, b, fd_b);
  if (order == -2) {
    throw_errno(EBADF,
                fmt::format("kcmp fd {} of process {} with fd {} of process {}", fd_a, a, fd_b, b));
  }
  return order;
}

bool is_epoll_target(pid_t pid, int epoll_fd, int target_fd, unsigned occurrence, int fd) {
  kcmp_epoll_slot slot{};
  slot.efd = static_cast<__u32>(epoll_fd);
  slot.tfd = static_cast<__u32>(target_fd);
  slot.toff = occurrence;
  return syscall(SYS_kcmp, pid, pid, KCMP_EPOLL_TFD, fd, &slot) == 0;
}

}  // namespace godwit
