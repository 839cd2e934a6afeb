#include "dest-agent/restore/eventfds.h"

#include <fmt/format.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>

namespace godwit {

RowResult append_eventfd(SyscallBatch& batch, const proto::OpenFile& file) {
  const int flags = EFD_CLOEXEC | (file.eventfd().semaphore() ? EFD_SEMAPHORE : 0);
  return batch.add(SYS_eventfd2, {0, flags}, fmt::format("fd {}: eventfd", file.id()));
}

}  // namespace godwit
