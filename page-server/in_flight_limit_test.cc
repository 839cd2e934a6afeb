#include "page-server/in_flight_limit.h"

#include <gtest/gtest.h>

namespace godwit {
namespace {

TEST(InFlightLimit, IsTwoRoundTripsOfTheRate) {
  EXPECT_EQ(in_flight_max(10'000'000, 40'000'000), 800'000u);
  EXPECT_EQ(in_flight_max(1'000'000'000, 20'000), 1'000'000u);
  EXPECT_EQ(in_flight_max(0, 0), 64u << 10);
}

TEST(InFlightLimit, DoesNotWaitForWhatTellsNothing) { await_little_in_flight(-1); }

}  // namespace
}  // namespace godwit
