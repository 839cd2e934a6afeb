// Opens regular files, directories and stateless devices again, inside the skeleton, by path.
//
// Change class: replace. Flags that create, truncate or take a controlling terminal are never
// passed on. What stands at the path must be what the source had (check_regular_file).
#pragma once

#include <sys/stat.h>

#include "common/remote/syscall_batch.h"
#include "proto/fd_table.pb.h"

namespace godwit {

// Rows: openat, and of a directory a first reading. The skeleton's root is still the mount
// namespace's.
RowResult append_open(SyscallBatch& batch, const proto::OpenFile& file);

// When: kEarly, while the source runs and may write to a file both hosts share; kFinal, stopped.
enum class FileCheck { kEarly, kFinal };
// Throws Error naming the descriptor, the path and the way out when it is another file.
void check_regular_file(const proto::OpenFile& file, const struct stat& found, FileCheck when);

// Row: lseek. Not for devices nor O_PATH.
void append_offset(SyscallBatch& batch, int fd, const proto::OpenFile& file);

// The Error for an openat that failed with `code`.
[[noreturn]] void throw_open_failed(const proto::OpenFile& file, int code);

}  // namespace godwit
