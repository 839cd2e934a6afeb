#include "page-server/answering_precedence.h"

#include <gtest/gtest.h>
#include <time.h>
#include <unistd.h>

#include <thread>

#include "common/base/clock.h"
#include "common/kernel/precedence.h"

namespace godwit {
namespace {

// Looks until the agent has done what was asked, some seconds at most: other work may take most of
// the processors.
bool comes_to_have(AnsweringPrecedence& precedence, bool working, bool expected) {
  const std::int64_t patience_ns = monotonic_ns() + 5'000'000'000;
  do {
    precedence.look();
    const timespec pause{0, 2'000'000};
    if (!working) ::clock_nanosleep(CLOCK_MONOTONIC, 0, &pause, nullptr);
  } while (has_precedence() != expected && monotonic_ns() < patience_ns);
  return has_precedence();
}

TEST(AnsweringPrecedence, IsForWhoMostlyWaits) {
  auto [agents, servers] = PageServiceLink::make_sockets();
  PageServiceLink agent(std::move(agents));
  agent.lend_precedence_to(::getpid());
  std::thread server([fd = std::move(servers)]() mutable {
    PageServiceLink link(std::move(fd));
    AnsweringPrecedence precedence(link);
    EXPECT_TRUE(comes_to_have(precedence, false, true));
    EXPECT_FALSE(comes_to_have(precedence, true, false));
    EXPECT_TRUE(comes_to_have(precedence, false, true));
  });
  int asked = 0;
  try {
    for (;; ++asked) EXPECT_TRUE(agent.receive(kNoDeadline).has_answering_thread());
  } catch (const Error&) {  // it has hung up
  }
  EXPECT_GE(asked, 3);
  server.join();
}

}  // namespace
}  // namespace godwit
