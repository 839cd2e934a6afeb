#include "common/kernel/time_namespace.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/base/clock.h"

namespace godwit {
namespace {

TEST(TimeNamespaceTest, ChildrenSeeTheOffsetsAndTheParentDoesNot) {
  // In a child, since the test program itself must not change.
  const pid_t child = ::fork();
  if (child == 0) {
    const std::int64_t before = monotonic_ns();
    enter_time_namespace_for_children({-1'500'000'000, 3'000'000'000'000});
    const pid_t inner = ::fork();
    if (inner == 0) {
      const std::int64_t now = monotonic_ns();
      ::_exit(now < before && read_time_offsets(::getpid()).monotonic_ns == -1'500'000'000 ? 0 : 1);
    }
    int status = 0;
    ::waitpid(inner, &status, 0);
    ::_exit(WIFEXITED(status) && WEXITSTATUS(status) == 0 && monotonic_ns() >= before ? 0 : 1);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
}

}  // namespace
}  // namespace godwit
