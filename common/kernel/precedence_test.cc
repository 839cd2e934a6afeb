#include "common/kernel/precedence.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/kernel/short_turns.h"

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

TEST(Precedence, OfAnotherProcessOutlastsItsOwnWish) {
  int ends[2];
  ASSERT_EQ(::pipe(ends), 0);
  const pid_t child = ::fork();
  if (child == 0) {
    char go = 0;
    if (::read(ends[0], &go, 1) != 1 || !has_precedence()) ::_exit(1);
    take_short_turns();
    ::_exit(has_precedence() ? 0 : 2);
  }
  {
    const Precedence precedence(child);
    EXPECT_EQ(::sched_getscheduler(child), SCHED_FIFO | SCHED_RESET_ON_FORK);
    EXPECT_FALSE(has_precedence());
    EXPECT_EQ(::write(ends[1], "g", 1), 1);
    int status = 0;
    ::waitpid(child, &status, 0);
    EXPECT_EQ(status, 0);
  }
  ::close(ends[0]);
  ::close(ends[1]);
}

TEST(Precedence, IsLentToThreadsOfOneProcess) {
  const pid_t self = ::getpid();
  const int before = ::sched_getscheduler(0);
  lend_precedence(self + 1, self, true);
  EXPECT_EQ(::sched_getscheduler(0), before);
  lend_precedence(self, self, true);
  EXPECT_TRUE(has_precedence());
  lend_precedence(self, self, false);
  EXPECT_EQ(::sched_getscheduler(0), SCHED_OTHER);
}

}  // namespace
}  // namespace godwit
