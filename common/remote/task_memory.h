// The memory of a process through /proc/PID/mem (proc_pid_mem(5)): reads and writes whatever the
// protection says; a write to a private mapping copies the page. The descriptor stays with the
// address space that the process had when it was opened.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <span>

#include "common/base/page_range.h"
#include "common/base/unique_fd.h"

namespace godwit {

class TaskMemory {
 public:
  // Throws Error naming the pid (EACCES, EPERM: not allowed to trace it).
  explicit TaskMemory(pid_t pid);

  int fd() const { return fd_.get(); }
  void read(Address from, std::span<std::byte> to) const;  // throws on a short read
  void write(Address to, std::span<const std::byte> from) const;
  bool try_read(Address from, std::span<std::byte> to) const;

  template <typename T>
  T value(Address from) const {
    T out;
    read(from, std::as_writable_bytes(std::span(&out, 1)));
    return out;
  }

 private:
  pid_t pid_;
  UniqueFd fd_;
};

}  // namespace godwit
