#include "common/kernel/fd_limit.h"

#include <sys/resource.h>

#include "common/base/error.h"

namespace godwit {

void raise_descriptor_limit() {
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

std::size_t descriptors_for_watches() {
  constexpr std::size_t kPart = 6;
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) throw_system("read RLIMIT_NOFILE");
  return limit.rlim_cur / kPart;
}

}  // namespace godwit
