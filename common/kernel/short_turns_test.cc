#include "common/kernel/short_turns.h"

#include <gtest/gtest.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <thread>

#include "common/kernel/processors.h"

namespace godwit {
namespace {

SchedulingAttributes own_attributes() {
  SchedulingAttributes attributes;
  EXPECT_EQ(syscall(SYS_sched_getattr, 0, &attributes, sizeof attributes, 0), 0);
  return attributes;
}

TEST(ShortTurns, PolicyAndNothingElseThatOthersSee) {
  std::thread([] {
    const SchedulingAttributes before = own_attributes();
    take_short_turns(true);
    EXPECT_EQ(own_attributes().policy, static_cast<std::uint32_t>(SCHED_BATCH));
    take_short_turns();
    const SchedulingAttributes after = own_attributes();
    EXPECT_EQ(after.policy, static_cast<std::uint32_t>(SCHED_OTHER));
    EXPECT_EQ(after.nice, before.nice);
    // Where the kernel tells how long a turn is, it is shorter now.
    if (before.runtime_ns != 0) {
      EXPECT_LT(after.runtime_ns, before.runtime_ns);
    }
  }).join();
}

}  // namespace
}  // namespace godwit
