#include "dest-agent/restore/regular_files.h"

#include <fcntl.h>
#include <sys/syscall.h>

#include "common/base/error.h"

namespace godwit {
namespace {

// Done once when the program opened the file, or the kernel's own.
constexpr std::uint32_t kNeverAgain =
    O_CREAT | O_EXCL | O_TRUNC | O_NOCTTY | O_ASYNC | (O_TMPFILE & ~O_DIRECTORY);

const char* kind_name(std::uint32_t mode) {
  switch (mode & S_IFMT) {
    case S_IFREG:
      return "a regular file";
    case S_IFDIR:
      return "a directory";
    case S_IFCHR:
      return "a character device";
    default:
      return "something else";
  }
}

std::string name_of(const proto::OpenFile& file) {
  return fmt::format("fd {}: {}", file.id(), file.regular_file().path());
}

// ext4 remembers where the first reading of an open directory began, and a rewound one goes on from
// there: were that the directory's end, it would be empty for good. So the first reading is ours,
// at the beginning.
void append_first_reading(SyscallBatch& batch, const RowResult& opened,
                          const proto::OpenFile& file) {
  constexpr std::size_t kOneEntryBytes = 512;
  const DataAt entries = batch.reserve(kOneEntryBytes);
  batch.add_may_fail(SYS_getdents64, {opened, entries, kOneEntryBytes}, name_of(file));
  batch.add_may_fail(SYS_lseek, {opened, 0, SEEK_SET}, name_of(file));
}

}  // namespace

RowResult append_open(SyscallBatch& batch, const proto::OpenFile& file) {
  const auto flags = (file.status_flags() & ~kNeverAgain) | O_NOCTTY | O_CLOEXEC;
  const DataAt path = batch.put_string(file.regular_file().path());
  const RowResult opened = batch.add(SYS_openat, {AT_FDCWD, path, flags, 0}, name_of(file));
  if (S_ISDIR(file.regular_file().mode()) && (flags & O_PATH) == 0) {
    append_first_reading(batch, opened, file);
  }
  return opened;
}

void throw_open_failed(const proto::OpenFile& file, int code) {
  throw Error(fmt::format("fd {}: open {} at the destination: {}", file.id(),
                          file.regular_file().path(), errno_text(code)),
              code, "the same file must be there under the same path: mount it, or copy it");
}

void check_regular_file(const proto::OpenFile& file, const struct stat& found, FileCheck when) {
  const auto& want = file.regular_file();
  const std::string hint = "the same file must be there under the same path: mount it, or copy it";
  if ((found.st_mode & S_IFMT) != (want.mode() & S_IFMT)) {
    throw Error(fmt::format("{} is {} at the destination, but {} at the source", name_of(file),
                            kind_name(found.st_mode), kind_name(want.mode())),
                0, hint);
  }
  if (S_ISCHR(want.mode()) && found.st_rdev != want.device()) {
    throw Error(fmt::format("{} is another device at the destination ({:#x}, not {:#x})",
                            name_of(file), found.st_rdev, want.device()),
                0, hint);
  }
  if (!S_ISREG(want.mode())) return;
  if (when == FileCheck::kFinal && found.st_nlink == 0) {
    throw Error(fmt::format("{} was replaced by another file", name_of(file)), 0,
                "begin the migration again");
  }
  const auto bytes = static_cast<std::uint64_t>(found.st_size);
  const auto modified_ns = found.st_mtim.tv_sec * 1'000'000'000LL + found.st_mtim.tv_nsec;
  if (bytes == want.bytes()) return;
  // A file on shared storage goes on changing while the source runs: then ours is the newer one.
  if (when == FileCheck::kEarly && modified_ns > want.modified_ns()) return;
  throw Error(fmt::format("{} has {} bytes at the destination, but {} at the source", name_of(file),
                          bytes, want.bytes()),
              0, hint);
}

void append_offset(SyscallBatch& batch, int fd, const proto::OpenFile& file) {
  batch.add(SYS_lseek, {fd, file.regular_file().offset(), SEEK_SET}, name_of(file));
}

}  // namespace godwit
