#include "common/base/human_text.h"

#include <gtest/gtest.h>

namespace godwit {
namespace {

constexpr std::int64_t kMs = 1'000'000;
constexpr std::int64_t kS = 1'000 * kMs;

TEST(BytesText, TakesTheUnitThatFits) {
  EXPECT_EQ(bytes_text(0), "0 B");
  EXPECT_EQ(bytes_text(999), "999 B");
  EXPECT_EQ(bytes_text(1000), "1.0 kB");
  EXPECT_EQ(bytes_text(999'949), "999.9 kB");
  EXPECT_EQ(bytes_text(999'999), "1.0 MB");
  EXPECT_EQ(bytes_text(1'100'000'000), "1.1 GB");
  EXPECT_EQ(bytes_text(5'000'000'000'000'000), "5000.0 TB");
}

TEST(DurationText, TakesTheUnitThatFits) {
  EXPECT_EQ(duration_text(0), "0.0 ms");
  EXPECT_EQ(duration_text(4'212'345), "4.2 ms");
  EXPECT_EQ(duration_text(999 * kMs), "999.0 ms");
  EXPECT_EQ(duration_text(kS - 1), "1.0 s");
  EXPECT_EQ(duration_text(12'340 * kMs), "12.3 s");
  EXPECT_EQ(duration_text(60 * kS - 1), "1 min 00 s");
  EXPECT_EQ(duration_text(125 * kS), "2 min 05 s");
  EXPECT_EQ(duration_text(3600 * kS - 1), "1 h 00 min");
  EXPECT_EQ(duration_text(4320 * kS), "1 h 12 min");
}

TEST(CountText, KnowsOneFromMany) {
  EXPECT_EQ(count_text(1, "round"), "1 round");
  EXPECT_EQ(count_text(0, "round"), "0 rounds");
  EXPECT_EQ(count_text(5, "page"), "5 pages");
}

}  // namespace
}  // namespace godwit
