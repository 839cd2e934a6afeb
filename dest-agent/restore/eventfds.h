// eventfd(2), made inside the skeleton. Change class: replace; the count is a state
// (file_states.h).
#pragma once

#include "common/remote/syscall_batch.h"
#include "proto/fd_table.pb.h"

namespace godwit {

RowResult append_eventfd(SyscallBatch& batch, const proto::OpenFile& file);

}  // namespace godwit
