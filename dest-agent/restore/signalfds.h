// signalfd(2), made inside the skeleton. Change class: replace.
#pragma once

#include "common/remote/syscall_batch.h"
#include "proto/fd_table.pb.h"

namespace godwit {

RowResult append_signalfd(SyscallBatch& batch, const proto::OpenFile& file);

}  // namespace godwit
