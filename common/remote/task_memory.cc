#include "common/remote/task_memory.h"

#include <fmt/format.h>
#include <sys/uio.h>

namespace godwit {
namespace {

// A page that somebody else has to bring first (userfaultfd, post-copy): the memory file can't wait
// for it and says EIO, process_vm_readv(2) can. After it the page is there. False: that was not it.
bool await_page(pid_t pid, Address at) {
  std::byte byte{};
  iovec here{&byte, 1};
  iovec there{reinterpret_cast<void*>(at), 1};
  return ::process_vm_readv(pid, &here, 1, &there, 1, 0) == 1;
}

}  // namespace

TaskMemory::TaskMemory(pid_t pid)
    : pid_(pid), fd_(open_file(fmt::format("/proc/{}/mem", pid), O_RDWR)) {}

bool TaskMemory::try_read(Address from, std::span<std::byte> to) const {
  while (!to.empty()) {
    const ssize_t got = pread(fd_.get(), to.data(), to.size(), static_cast<off_t>(from));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0 && errno == EIO && await_page(pid_, from)) continue;
    if (got <= 0) return false;
    from += static_cast<std::uint64_t>(got);
    to = to.subspan(static_cast<std::size_t>(got));
  }
  return true;
}

void TaskMemory::read(Address from, std::span<std::byte> to) const {
  errno = EFAULT;
  if (!try_read(from, to)) {
    throw_system("read {} bytes at {:#x} of process {}", to.size(), from, pid_);
  }
}

void TaskMemory::write(Address to, std::span<const std::byte> from) const {
  const Address start = to;
  const std::size_t bytes = from.size();
  while (!from.empty()) {
    const ssize_t put = pwrite(fd_.get(), from.data(), from.size(), static_cast<off_t>(to));
    if (put < 0 && errno == EINTR) continue;
    if (put < 0 && errno == EIO && await_page(pid_, to)) continue;
    if (put == 0) errno = EFAULT;
    if (put <= 0) throw_system("write {} bytes at {:#x} of process {}", bytes, start, pid_);
    to += static_cast<std::uint64_t>(put);
    from = from.subspan(static_cast<std::size_t>(put));
  }
}

}  // namespace godwit
