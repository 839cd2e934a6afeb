#include "common/base/latency_histogram.h"

#include <gtest/gtest.h>

namespace godwit {
namespace {

TEST(LatencyHistogram, QuantilesAreRightToAQuarter) {
  LatencyHistogram histogram;
  for (std::int64_t us = 1; us <= 1000; ++us) histogram.add(us * 1000);
  EXPECT_EQ(histogram.count(), 1000U);
  EXPECT_EQ(histogram.max_ns(), 1'000'000);
  for (const double share : {0.1, 0.5, 0.9, 0.99}) {
    const auto exact = static_cast<double>(1'000'000) * share;
    EXPECT_GE(static_cast<double>(histogram.quantile_ns(share)), exact) << share;
    EXPECT_LE(static_cast<double>(histogram.quantile_ns(share)), exact * 1.26) << share;
  }
  EXPECT_EQ(histogram.quantile_ns(1), 1'000'000);
}

TEST(LatencyHistogram, NothingAndTheOddest) {
  LatencyHistogram histogram;
  EXPECT_EQ(histogram.quantile_ns(0.5), 0);
  histogram.add(0);
  histogram.add(-5);
  histogram.add(INT64_MAX);
  EXPECT_EQ(histogram.max_ns(), INT64_MAX);
  EXPECT_LE(histogram.quantile_ns(0.5), 5);
}

}  // namespace
}  // namespace godwit
