#include "common/base/standard_fds.h"

#include <fcntl.h>
#include <unistd.h>

#include <initializer_list>

namespace godwit {

void keep_standard_fds() {
  for (const int fd : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) {
    if (::fcntl(fd, F_GETFD) >= 0) continue;
    // The lowest free number is the one that is closed. For reading only: what is written must not
    // seem to have arrived.
    if (::open("/dev/null", O_RDONLY) < 0) return;
  }
}

}  // namespace godwit
