// Preloaded into an agent (LD_PRELOAD): it stops itself at an instant that a test could not hit
// from outside, and the test does what it wants to it there. STOP_AT says where:
//
//   building                        dest-agent, with a description that it has done nothing about
//   before-release, after-release   dest-agent, around the write that thaws the restored process
//   after-freeze                    migrate, once the source is asked to freeze, before Commit
//   before-commit                   migrate, with the sockets closed off, before it sends anything
//   after-commit                    migrate, once Commit has been handed to the kernel
#include <dlfcn.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdlib>
#include <string>
#include <string_view>

namespace {

using Write = ssize_t (*)(int, const void*, size_t);
using Send = ssize_t (*)(int, const void*, size_t, int);

enum class Kind { kOther, kFreeze, kThaw };

bool frozen = false;

std::string_view stop_at() {
  static const char* const where = getenv("STOP_AT");
  return where == nullptr ? "" : where;
}

Kind kind_of(int fd, const void* data, size_t size) {
  char path[512];
  const ssize_t length =
      readlink(("/proc/self/fd/" + std::to_string(fd)).c_str(), path, sizeof(path));
  if (length <= 0) return Kind::kOther;
  const std::string_view name(path, static_cast<size_t>(length));
  if (size != 1 || !name.ends_with("/cgroup.freeze")) return Kind::kOther;
  const bool restored = name.find("-restored/") != std::string_view::npos;
  const char digit = *static_cast<const char*>(data);
  char now = '0';
  // Thawing a group that is not frozen decides nothing.
  if (restored && digit == '0' && pread(fd, &now, 1, 0) == 1 && now == '1') return Kind::kThaw;
  return !restored && digit == '1' ? Kind::kFreeze : Kind::kOther;
}

// A destination writes its first one when it begins to build.
bool is_journal(int fd) {
  char path[512];
  const ssize_t length =
      readlink(("/proc/self/fd/" + std::to_string(fd)).c_str(), path, sizeof(path));
  return length > 0 &&
         std::string_view(path, static_cast<size_t>(length)).find("-destination.json") !=
             std::string_view::npos;
}

void stop_once() {
  static bool stopped = false;
  if (!stopped) raise(SIGSTOP);
  stopped = true;
}

}  // namespace

// The first that is sent after the freeze, when no packet was held, is Commit.
extern "C" ssize_t send(int fd, const void* data, size_t size, int flags) {
  static const Send next = reinterpret_cast<Send>(dlsym(RTLD_NEXT, "send"));
  if (frozen && stop_at() == "before-commit") raise(SIGSTOP);
  const ssize_t sent = next(fd, data, size, flags);
  if (frozen && stop_at() == "after-commit") raise(SIGSTOP);
  return sent;
}

extern "C" ssize_t write(int fd, const void* data, size_t size) {
  static const Write next = reinterpret_cast<Write>(dlsym(RTLD_NEXT, "write"));
  const std::string_view wanted = stop_at();
  if (wanted == "building" && is_journal(fd)) stop_once();
  const Kind kind = wanted.empty() ? Kind::kOther : kind_of(fd, data, size);
  if (kind == Kind::kThaw && wanted == "before-release") raise(SIGSTOP);
  const ssize_t written = next(fd, data, size);
  if (kind == Kind::kThaw && wanted == "after-release") raise(SIGSTOP);
  if (kind == Kind::kFreeze && wanted == "after-freeze") raise(SIGSTOP);
  if (kind == Kind::kFreeze) frozen = true;
  return written;
}
