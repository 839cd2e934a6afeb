#include "common/kernel/fd_limit.h"

#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/resource.h>

#include <algorithm>

#include "common/base/error.h"
#include "common/base/unique_fd.h"

namespace godwit {

namespace {

// The kernel waits for RCU, milliseconds, each time that a table which threads share gets too
// small (expand_fdtable()). This one is large from the beginning: 8 bytes a descriptor.
void make_table_large() {
  constexpr rlim_t kOpenAtOnce = 1 << 15;
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) throw_system("read RLIMIT_NOFILE");
  const UniqueFd any(::eventfd(0, EFD_CLOEXEC));
  if (!any.valid()) throw_system("open an eventfd");
  const int last = static_cast<int>(std::min(limit.rlim_cur, kOpenAtOnce)) - 1;
  const UniqueFd far(::fcntl(any.get(), F_DUPFD_CLOEXEC, last));
}

void raise_limit() {
  // Ten thousands for what is moved, and three for each of as many threads.
  constexpr rlim_t kPlenty = 1 << 18;
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) throw_system("read RLIMIT_NOFILE");
  if (limit.rlim_max < kPlenty) {
    // Refused without CAP_SYS_RESOURCE, and above what the kernel allows anybody (fs.nr_open).
    const rlimit plenty{kPlenty, kPlenty};
    if (setrlimit(RLIMIT_NOFILE, &plenty) == 0) return;
  }
  if (limit.rlim_cur == limit.rlim_max) return;
  limit.rlim_cur = limit.rlim_max;
  if (setrlimit(RLIMIT_NOFILE, &limit) != 0) throw_system("raise RLIMIT_NOFILE");
}

}  // namespace

void raise_descriptor_limit() {
  raise_limit();
  make_table_large();
}

std::size_t descriptors_for_watches() {
  constexpr std::size_t kPart = 6;
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) throw_system("read RLIMIT_NOFILE");
  return limit.rlim_cur / kPart;
}

}  // namespace godwit
