#include "page-server/answering_precedence.h"

#include <gtest/gtest.h>
#include <time.h>
#include <unistd.h>

#include <thread>

#include "common/base/clock.h"
#include "common/kernel/precedence.h"

namespace godwit {
namespace {

// Looks for so long, then until the agent has done what was asked, half a second at most.
bool has_precedence_after(AnsweringPrecedence& precedence, int ms, bool working, bool expected) {
  const std::int64_t end_ns = monotonic_ns() + ms * 1'000'000LL;
  const std::int64_t patience_ns = end_ns + 500'000'000;
  while (monotonic_ns() < end_ns ||
         (has_precedence() != expected && monotonic_ns() < patience_ns)) {
    precedence.look();
    const timespec pause{0, 2'000'000};
    if (!working) ::clock_nanosleep(CLOCK_MONOTONIC, 0, &pause, nullptr);
  }
  return has_precedence();
}

TEST(AnsweringPrecedence, IsForWhoMostlyWaits) {
  auto [agents, servers] = PageServiceLink::make_sockets();
  PageServiceLink agent(std::move(agents));
  agent.lend_precedence_to(::getpid());
  std::thread server([fd = std::move(servers)]() mutable {
    PageServiceLink link(std::move(fd));
    AnsweringPrecedence precedence(link);
    EXPECT_TRUE(has_precedence_after(precedence, 120, false, true));
    EXPECT_FALSE(has_precedence_after(precedence, 300, true, false));
    EXPECT_TRUE(has_precedence_after(precedence, 200, false, true));
  });
  int asked = 0;
  try {
    for (;; ++asked) EXPECT_TRUE(agent.receive(kNoDeadline).has_answering_thread());
  } catch (const Error&) {  // it has hung up
  }
  EXPECT_EQ(asked, 3);
  server.join();
}

}  // namespace
}  // namespace godwit
