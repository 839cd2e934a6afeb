#include "source-agent/convergence.h"

#include <gtest/gtest.h>

namespace godwit {
namespace {

RoundReport round_of(std::uint64_t pages, double ms) {
  RoundReport round;
  round.pages = pages;
  round.bytes = pages * 4096;
  round.ns = static_cast<std::int64_t>(ms * 1e6);
  return round;
}

TEST(ConvergenceTest, NeverSwitchesAfterTheFirstRound) {
  Convergence convergence({});
  EXPECT_EQ(convergence.after_round(round_of(10, 1)).decision, PrecopyDecision::kAnotherRound);
}

TEST(ConvergenceTest, IdleTaskSwitchesAfterTheSecondRound) {
  Convergence convergence({});
  convergence.after_round(round_of(262144, 800));
  EXPECT_EQ(convergence.after_round(round_of(3, 1)).decision, PrecopyDecision::kSwitch);
}

TEST(ConvergenceTest, GoesOnWhileRoundsShrinkThenSwitches) {
  Convergence convergence({});
  convergence.after_round(round_of(262144, 800));
  EXPECT_EQ(convergence.after_round(round_of(20000, 60)).decision, PrecopyDecision::kAnotherRound);
  EXPECT_EQ(convergence.after_round(round_of(1500, 6)).decision, PrecopyDecision::kAnotherRound);
  const Prediction last = convergence.after_round(round_of(150, 1));
  EXPECT_EQ(last.decision, PrecopyDecision::kSwitch);
  EXPECT_LE(last.rest_pages, 64u);
}

TEST(ConvergenceTest, WriterFasterThanTheLinkIsGivenUpAfterTheRoundsAllowed) {
  ConvergenceLimits limits;
  limits.rounds_max = 5;
  Convergence convergence(limits);
  convergence.after_round(round_of(262144, 800));
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(convergence.after_round(round_of(262144, 800)).decision,
              PrecopyDecision::kAnotherRound);
  }
  const Prediction last = convergence.after_round(round_of(262144, 800));
  EXPECT_EQ(last.decision, PrecopyDecision::kGiveUp);
  EXPECT_GT(last.downtime_ns, limits.downtime_ns_max);
}

TEST(ConvergenceTest, SteadyDirtySetThatFitsSwitches) {
  Convergence convergence({});
  convergence.after_round(round_of(262144, 500));
  convergence.after_round(round_of(400, 2));
  EXPECT_EQ(convergence.after_round(round_of(400, 2)).decision, PrecopyDecision::kSwitch);
}

TEST(ConvergenceTest, AHybridLeavesPagesAsSoonAsRoundsDoNotHelp) {
  ConvergenceLimits limits;
  limits.may_leave_pages = true;
  Convergence convergence(limits);
  convergence.after_round(round_of(262144, 800));
  EXPECT_EQ(convergence.after_round(round_of(180000, 600)).decision,
            PrecopyDecision::kAnotherRound);
  EXPECT_EQ(convergence.after_round(round_of(175000, 600)).decision,
            PrecopyDecision::kSwitchLazily);
}

TEST(ConvergenceTest, AHybridDoesNotSendAgainWhatIsWrittenAllTheTime) {
  ConvergenceLimits limits;
  limits.may_leave_pages = true;
  Convergence convergence(limits);
  convergence.after_round(round_of(262144, 800));
  EXPECT_EQ(convergence.after_round(round_of(200000, 600)).decision,
            PrecopyDecision::kSwitchLazily);
}

TEST(ConvergenceTest, AHybridIsPatientWhereTheRestAlmostFits) {
  ConvergenceLimits limits;
  limits.may_leave_pages = true;
  Convergence convergence(limits);
  convergence.after_round(round_of(262144, 800));
  convergence.after_round(round_of(4000, 12));
  int rounds = 2;
  for (PrecopyDecision decision = PrecopyDecision::kAnotherRound;
       decision == PrecopyDecision::kAnotherRound; ++rounds) {
    decision = convergence.after_round(round_of(4000, 12)).decision;
    ASSERT_NE(decision, PrecopyDecision::kSwitch);
    ASSERT_LT(rounds, limits.rounds_max);
  }
  EXPECT_GT(rounds, 10);
}

}  // namespace
}  // namespace godwit
