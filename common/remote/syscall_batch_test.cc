#include "common/remote/syscall_batch.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/syscall.h>

#include "common/base/error.h"

namespace godwit {
namespace {

TEST(SyscallBatch, PrintsLikeStrace) {
  SyscallBatch batch;
  const DataAt path = batch.put_string("/srv/db.log");
  const RowResult fd = batch.add(SYS_openat, {AT_FDCWD, path, 0x80000, 0}, "/srv/db.log");
  batch.add_may_fail(SYS_close, {fd});
  EXPECT_EQ(batch.print(), "openat(-100, data+0, 0x80000, 0) # /srv/db.log\nclose(row#0)?\n");
}

TEST(SyscallBatch, DataAreAligned) {
  SyscallBatch batch;
  EXPECT_EQ(batch.put_string("abc").offset, 0u);
  EXPECT_EQ(batch.put_value(std::uint64_t{7}).offset, 16u);
  EXPECT_EQ(batch.reserve(3).offset, 32u);
  EXPECT_EQ(batch.data().size(), 35u);
}

TEST(SyscallBatch, AppendMovesReferencesAlong) {
  SyscallBatch first;
  first.put_string("x");
  first.add(SYS_getpid, {});
  SyscallBatch second;
  const DataAt at = second.put_string("y");
  const RowResult row = second.add(SYS_getppid, {});
  second.add(SYS_close, {row, at});
  EXPECT_EQ(first.append(second), 1u);
  EXPECT_EQ(first.print(), "getpid()\ngetppid()\nclose(row#1, data+16)\n");
}

TEST(SyscallBatch, RefusesAReferenceToALaterRow) {
  SyscallBatch batch;
  EXPECT_THROW(batch.add(SYS_close, {RowResult{0}}), Error);
}

TEST(SyscallBatch, NamesCalls) {
  EXPECT_EQ(syscall_name(SYS_mmap), "mmap");
  EXPECT_EQ(syscall_name(SYS_clone3), "clone3");
  EXPECT_EQ(syscall_name(99999), "call 99999");
}

}  // namespace
}  // namespace godwit
