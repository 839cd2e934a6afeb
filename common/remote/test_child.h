// For tests: a forked process that runs a function, memory shared with it, and waiting for things.
#pragma once

#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <functional>
#include <new>
#include <string>
#include <utility>

#include "common/base/clock.h"
#include "common/base/unique_fd.h"
#include "common/kernel/proc_maps.h"
#include "common/kernel/proc_stat.h"
#include "common/kernel/proc_status.h"

namespace godwit::testing {

// One T that this process and its children share.
template <typename T>
class Shared {
 public:
  Shared()
      : value_(new (mmap(nullptr, sizeof(T), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1,
                         0)) T()) {}
  Shared(const Shared&) = delete;
  Shared& operator=(const Shared&) = delete;
  ~Shared() { munmap(value_, sizeof(T)); }
  T* operator->() const { return value_; }
  T& operator*() const { return *value_; }

 private:
  T* value_;
};

// Ends with the object, and with its parent.
class Child {
 public:
  explicit Child(const std::function<int()>& body) {
    const pid_t self = getpid();
    pid_ = fork();
    if (pid_ != 0) return;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != self) _exit(98);
    int code = 99;
    try {
      code = body();
    } catch (const std::exception& error) {
      dprintf(2, "child: %s\n", error.what());
    }
    _exit(code);
  }
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;
  ~Child() {
    if (pid_ <= 0) return;
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
  }
  pid_t pid() const { return pid_; }
  // The exit code, or 1000 + the signal that ended it.
  int wait() {
    int status = 0;
    waitpid(std::exchange(pid_, -1), &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
  }

 private:
  pid_t pid_ = -1;
};

inline bool wait_until(const std::function<bool()>& holds, int timeout_ms = 5000) {
  const std::int64_t start = monotonic_ns();
  while (!holds()) {
    if (monotonic_ns() - start > timeout_ms * 1'000'000LL) return false;
    usleep(200);
  }
  return true;
}

// Until the thread sleeps in a system call.
inline bool wait_asleep(pid_t pid) {
  return wait_until([&] { return read_proc_stat(pid).state == 'S'; });
}

// Whether the last page of the vDSO holds anything of ours, or a mapping is named after us.
inline std::string traces_of_us(pid_t pid) {
  const UniqueFd memory = open_file("/proc/" + std::to_string(pid) + "/mem", O_RDONLY);
  std::string found;
  for (const MapsLine& line : read_maps(pid)) {
    if (line.path.find("godwit]") != std::string::npos) found += "scratch mapped; ";
    const bool vdso = line.path == "[vdso]";
    if (!vdso && ((line.protection & PROT_EXEC) == 0 || line.shared || line.inode == 0)) continue;
    std::string page(kPageSize, '\0');
    if (pread(memory.get(), page.data(), page.size(),
              static_cast<off_t>(line.range.end - kPageSize)) < 0) {
      found += line.path + " unreadable; ";
    }
    if (page.find("GODWIT-STUB") != std::string::npos) found += "code in " + line.path + "; ";
    if (vdso && page.find_last_not_of('\0') > kPageSize - 600) found += "bytes behind the vDSO; ";
  }
  return found;
}

}  // namespace godwit::testing
