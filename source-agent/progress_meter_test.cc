#include "source-agent/progress_meter.h"

#include <gtest/gtest.h>

namespace godwit {
namespace {

using Kind = SwitchEstimate::Kind;

constexpr std::int64_t kMs = 1'000'000;
constexpr std::int64_t kS = 1'000 * kMs;
constexpr std::uint64_t kPageBandwidth = 4096;  // a page a second

ConvergenceLimits limits() { return {.downtime_ns_max = 10 * kMs, .fixed_cost_ns = 3 * kMs}; }

TEST(EstimateSwitch, KnowsNothingBeforeAnythingIsMeasured) {
  EXPECT_EQ(estimate_switch({1000, 0, {}, 0}, limits()).kind, Kind::kUnknown);
}

TEST(EstimateSwitch, GivesALowerBoundInTheFirstRound) {
  const SwitchEstimate found = estimate_switch({1000, kS, {}, 100 * kPageBandwidth}, limits());
  EXPECT_EQ(found.kind, Kind::kAtLeast);
  EXPECT_EQ(found.ns, 10 * kS);
}

TEST(EstimateSwitch, EndsWithThisRoundWhenTheRestFits) {
  // 1 page/s is written in 2 s; sending two takes 2 ms of the 7 that are left.
  const SwitchEstimate found = estimate_switch({1000, kS, 1, 1000 * kPageBandwidth}, limits());
  EXPECT_EQ(found.kind, Kind::kAbout);
  EXPECT_EQ(found.ns, kS);
}

TEST(EstimateSwitch, AddsTheRoundsThatFollow) {
  // A tenth of what is sent is written meanwhile: 1 s + 0.1 + 0.01; then 1 ms of pages is left.
  const SwitchEstimate found = estimate_switch({1000, 0, 100, 1000 * kPageBandwidth}, limits());
  EXPECT_EQ(found.kind, Kind::kAbout);
  EXPECT_NEAR(static_cast<double>(found.ns), 1.11e9, 1e6);
}

TEST(EstimateSwitch, SeesThatItDoesNotConverge) {
  EXPECT_EQ(estimate_switch({1000, 0, 1000, 1000 * kPageBandwidth}, limits()).kind, Kind::kNever);
  EXPECT_EQ(estimate_switch({1000, 0, 5000, 1000 * kPageBandwidth}, limits()).kind, Kind::kNever);
  // The fixed cost alone is more than is wanted.
  ConvergenceLimits tight = limits();
  tight.downtime_ns_max = kMs;
  EXPECT_EQ(estimate_switch({1000, 0, 10, 1000 * kPageBandwidth}, tight).kind, Kind::kNever);
}

class ProgressMeterTest : public ::testing::Test {
 protected:
  ProgressFacts facts(std::int64_t now_ns) const {
    return meter_.facts(State::kPreCopy, false, now_ns);
  }
  ProgressMeter meter_{7, "b:1", limits(), 5 * kS};
};

TEST_F(ProgressMeterTest, CountsTheFirstRoundDown) {
  meter_.begin_round(1, 6 * kS);
  EXPECT_FALSE(facts(6 * kS).round_pages);
  EXPECT_EQ(facts(6 * kS).elapsed_ns, kS);
  meter_.scanned(1, 1000);
  EXPECT_EQ(facts(6 * kS).pages_left, 1000U);
  EXPECT_EQ(facts(6 * kS).switch_in.kind, Kind::kUnknown);
  meter_.sent(1, 250, 250 * 4096, 7 * kS);
  const ProgressFacts now = facts(7 * kS);
  EXPECT_EQ(now.pages_left, 750U);
  EXPECT_EQ(now.bandwidth_bytes_per_s, 250 * 4096U);
  EXPECT_FALSE(now.dirty_pages_per_s);
  EXPECT_EQ(now.switch_in.kind, Kind::kAtLeast);
  EXPECT_EQ(now.switch_in.ns, 3 * kS);
}

TEST_F(ProgressMeterTest, KnowsTheRateOfWritesFromTheSecondScanOn) {
  meter_.begin_round(1, 6 * kS);
  meter_.scanned(1, 1000);
  RoundReport round{.round = 1, .pages = 1000, .ns = 4 * kS};
  round.bandwidth_bytes_per_s = 1'024'000;
  meter_.end_round(round, {});
  EXPECT_FALSE(facts(10 * kS).pause_ns);
  meter_.begin_round(2, 10 * kS);
  meter_.scanned(2, 40);
  const ProgressFacts now = facts(10 * kS);
  EXPECT_EQ(now.round, 2U);
  EXPECT_EQ(now.pages_left, 40U);
  EXPECT_EQ(now.dirty_pages_per_s, 10U);
  EXPECT_EQ(now.bandwidth_bytes_per_s, 1'024'000U) << "of the round before";
  EXPECT_EQ(now.switch_in.kind, Kind::kAbout);
  Prediction prediction;
  prediction.downtime_ns = 4 * kMs;
  meter_.end_round(round, prediction);
  EXPECT_EQ(facts(11 * kS).pause_ns, 4 * kMs);
}

TEST_F(ProgressMeterTest, ToleratesNewsThatComeLate) {
  meter_.begin_round(2, 6 * kS);
  meter_.sent(1, 900, 900 * 4096, 7 * kS);
  meter_.scanned(1, 1000);
  EXPECT_FALSE(facts(7 * kS).round_pages);
  meter_.scanned(2, 10);
  meter_.sent(2, 15, 15 * 4096, 8 * kS);
  EXPECT_EQ(facts(8 * kS).pages_left, 0U) << "more than was found is no negative rest";
}

}  // namespace
}  // namespace godwit
