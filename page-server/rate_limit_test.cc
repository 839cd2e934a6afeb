#include "page-server/rate_limit.h"

#include <gtest/gtest.h>

namespace godwit {
namespace {

constexpr std::int64_t kSecond = 1'000'000'000;

TEST(RateLimit, ZeroIsNoLimit) {
  RateLimit limit(0);
  EXPECT_EQ(limit.delay_ns(1ULL << 40, 5), 0);
  EXPECT_GT(limit.piece_bytes(), 1ULL << 40);
}

TEST(RateLimit, KeepsTheRateOverTime) {
  RateLimit limit(10'000'000);
  std::int64_t now_ns = 100 * kSecond;
  const std::int64_t start_ns = now_ns;
  for (int i = 0; i < 1000; ++i) now_ns += limit.delay_ns(50'000, now_ns);  // 50 MB
  EXPECT_NEAR(static_cast<double>(now_ns - start_ns), 5.0 * kSecond, 0.06 * kSecond);
}

TEST(RateLimit, APauseBuysAShortBurstOnly) {
  RateLimit limit(10'000'000);
  limit.delay_ns(1, 100 * kSecond);
  EXPECT_EQ(limit.delay_ns(400'000, 200 * kSecond), 0);  // 40 ms worth
  EXPECT_EQ(limit.delay_ns(400'000, 200 * kSecond), 0);  // begins within the burst
  EXPECT_NEAR(static_cast<double>(limit.delay_ns(1, 200 * kSecond)), 0.03 * kSecond,
              0.001 * kSecond);
}

}  // namespace
}  // namespace godwit
