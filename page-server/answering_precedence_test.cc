#include "page-server/answering_precedence.h"

#include <gtest/gtest.h>
#include <time.h>

#include <thread>

#include "common/base/clock.h"

namespace godwit {
namespace {

void look_for_ms(AnsweringPrecedence& precedence, int ms, bool working) {
  const std::int64_t end_ns = monotonic_ns() + ms * 1'000'000LL;
  while (monotonic_ns() < end_ns) {
    precedence.look();
    const timespec pause{0, 2'000'000};
    if (!working) ::clock_nanosleep(CLOCK_MONOTONIC, 0, &pause, nullptr);
  }
}

TEST(AnsweringPrecedence, IsForWhoMostlyWaits) {
  std::thread([] {
    AnsweringPrecedence precedence;
    EXPECT_TRUE(has_precedence());
    look_for_ms(precedence, 120, false);
    EXPECT_TRUE(has_precedence());
    look_for_ms(precedence, 300, true);
    EXPECT_FALSE(has_precedence());
    look_for_ms(precedence, 200, false);
    EXPECT_TRUE(has_precedence());
  }).join();
}

}  // namespace
}  // namespace godwit
