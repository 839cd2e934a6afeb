#include "dest-agent/restore/signalfds.h"

#include <fmt/format.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>

namespace godwit {

RowResult append_signalfd(SyscallBatch& batch, const proto::OpenFile& file) {
  const DataAt mask = batch.put_value<std::uint64_t>(file.signalfd().mask());
  return batch.add(SYS_signalfd4, {-1, mask, sizeof(std::uint64_t), SFD_CLOEXEC},
                   fmt::format("fd {}: signalfd", file.id()));
}

}  // namespace godwit
