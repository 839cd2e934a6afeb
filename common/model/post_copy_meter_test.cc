#include "common/model/post_copy_meter.h"

#include <gtest/gtest.h>

namespace godwit {
namespace {

constexpr std::int64_t kSecondNs = 1'000'000'000;

proto::MissingPages news(std::uint64_t missing, std::uint64_t faults, std::int64_t latency_ns) {
  proto::MissingPages out;
  out.set_missing_pages(missing);
  out.set_faults(faults);
  out.set_fault_bytes(faults * 4096);
  out.set_latency_max_ns(latency_ns);
  if (faults == 0) return out;
  LatencyHistogram histogram;
  histogram.add_many(latency_ns, faults);
  histogram.for_each_count([&](std::int64_t below_ns, std::uint64_t count) {
    out.add_latencies()->set_below_ns(below_ns);
    out.mutable_latencies()->rbegin()->set_count(count);
  });
  return out;
}

TEST(PostCopyMeter, RatesAreThoseOfTheLastSeconds) {
  PostCopyMeter meter(1000);
  meter.take(news(1000, 0, 0), kSecondNs);
  EXPECT_EQ(meter.report().complete_in_ns, PostCopyReport::kUnknown);
  meter.take(news(900, 50, 1000), 2 * kSecondNs);
  EXPECT_EQ(meter.report().faults_per_s, 50U);
  EXPECT_EQ(meter.report().complete_in_ns, 9 * kSecondNs);
  for (int second = 3; second < 10; ++second) meter.take(news(900, 50, 1000), second * kSecondNs);
  EXPECT_EQ(meter.report().faults_per_s, 0U);
  EXPECT_EQ(meter.report().complete_in_ns, PostCopyReport::kUnknown) << "nothing comes any more";
}

TEST(PostCopyMeter, PageServersThatFollowAreOneStory) {
  PostCopyMeter meter(1000);
  meter.take(news(800, 10, 100'000), kSecondNs);
  meter.begin_again();
  EXPECT_EQ(meter.report().faults, 10U);
  meter.take(news(500, 30, 1'000'000), 3 * kSecondNs);
  const PostCopyReport& report = meter.report();
  EXPECT_EQ(report.pages, 1000U);
  EXPECT_EQ(report.missing_pages, 500U);
  EXPECT_EQ(report.faults, 40U);
  EXPECT_EQ(report.fault_bytes, 40U * 4096);
  EXPECT_EQ(report.reconnects, 1);
  EXPECT_EQ(report.latencies.count(), 40U);
  EXPECT_LE(report.latencies.quantile_ns(0.2), 125'000);
  EXPECT_GE(report.latency_p50_ns, 1'000'000);
  EXPECT_EQ(report.latency_max_ns, 1'000'000);
}

TEST(PostCopyMeter, GoesOnWhereAnotherHasStopped) {
  PostCopyMeter first;
  first.take(news(700, 5, 1000), kSecondNs);
  PostCopyMeter second(first.report());
  second.begin_again();
  second.take(news(600, 1, 1000), 2 * kSecondNs);
  EXPECT_EQ(second.report().pages, 700U);
  EXPECT_EQ(second.report().faults, 6U);
}

}  // namespace
}  // namespace godwit
