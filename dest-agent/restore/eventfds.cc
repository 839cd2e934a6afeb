#include "dest-agent/restore/eventfds.h"

#include <fmt/format.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>

namespace godwit {

RowResult append_eventfd(SyscallBatch& batch, const proto::OpenFile& file) {
  const int flags = EFD_CLOEXEC | (file.eventfd().semaphore() ? EFD_SEMAPHORE : 0);
  return batch.add(SYS_eventfd2, {0, flags}, fmt::format("fd {}: eventfd", file.id()));
}

void append_eventfd_count(SyscallBatch& batch, int fd, const proto::EventFd& want) {
  if (want.count() == 0) return;
  const DataAt count = batch.put_value<std::uint64_t>(want.count());
  batch.add(SYS_write, {fd, count, sizeof(std::uint64_t)}, fmt::format("fd {}: eventfd", fd));
}

}  // namespace godwit
