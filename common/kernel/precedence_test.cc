#include "common/kernel/precedence.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

namespace godwit {
namespace {

int policy_of_child() {
  const pid_t child = ::fork();
  if (child == 0) ::_exit(::sched_getscheduler(0));
  int status = 0;
  ::waitpid(child, &status, 0);
  return WEXITSTATUS(status);
}

TEST(Precedence, IsTakenAndGivenBack) {
  const int before = ::sched_getscheduler(0);
  {
    const Precedence precedence;
    EXPECT_EQ(::sched_getscheduler(0), SCHED_FIFO | SCHED_RESET_ON_FORK);
    EXPECT_EQ(policy_of_child(), SCHED_OTHER);
  }
  EXPECT_EQ(::sched_getscheduler(0), before);
}

}  // namespace
}  // namespace godwit
