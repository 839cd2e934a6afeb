// eventfd(2), made inside the skeleton. Change class: replace; the count comes in the blackout.
#pragma once

#include "common/remote/syscall_batch.h"
#include "proto/fd_table.pb.h"

namespace godwit {

RowResult append_eventfd(SyscallBatch& batch, const proto::OpenFile& file);
// Rows: write of the count to descriptor `fd`, which has none yet.
void append_eventfd_count(SyscallBatch& batch, int fd, const proto::EventFd& want);

}  // namespace godwit
