// Preloaded into an agent (LD_PRELOAD): UFFDIO_POISON answers as on a kernel that lacks it. A
// seccomp filter (without.cc) would come along into what is restored.
#include <dlfcn.h>
#include <errno.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>

#include <cstdarg>

using Ioctl = int (*)(int, unsigned long, void*);

extern "C" int ioctl(int fd, unsigned long request, ...) {
  static const auto next = reinterpret_cast<Ioctl>(dlsym(RTLD_NEXT, "ioctl"));
  va_list arguments;
  va_start(arguments, request);
  void* argument = va_arg(arguments, void*);
  va_end(arguments);
  constexpr unsigned long kPoison = _IOWR(UFFDIO, 0x08, long long[4]);
  if (request == kPoison) {
    errno = EINVAL;
    return -1;
  }
  return next(fd, request, argument);
}
