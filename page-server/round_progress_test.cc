#include "page-server/round_progress.h"

#include <gtest/gtest.h>

#include <thread>

#include "common/base/clock.h"

namespace godwit {
namespace {

using std::chrono::milliseconds;

class RoundProgressTest : public ::testing::Test {
 protected:
  RoundProgressTest() {
    auto [ours, theirs] = PageServiceLink::make_sockets();
    agent_.emplace(std::move(ours));
    server_.emplace(std::move(theirs));
  }
  std::optional<proto::PageReport> told() {
    return agent_->try_receive(monotonic_ns() + 10'000'000);
  }

  std::optional<PageServiceLink> agent_;
  std::optional<PageServiceLink> server_;
};

TEST_F(RoundProgressTest, TellsHowFarARunningRoundIs) {
  RoundProgress progress(*server_, 3, false);
  progress.took(progress.step_pages(), 1000);
  EXPECT_FALSE(told()) << "too early to be of interest";
  std::this_thread::sleep_for(milliseconds(200));
  progress.took(10, 5000);
  const auto report = told();
  ASSERT_TRUE(report && report->has_round_progress());
  EXPECT_EQ(report->round_progress().round(), 3U);
  EXPECT_EQ(report->round_progress().pages(), progress.step_pages() + 10);
  EXPECT_EQ(report->round_progress().bytes(), 5000U);
}

TEST_F(RoundProgressTest, IsSilentInAFinalRound) {
  RoundProgress progress(*server_, 4, true);
  EXPECT_GT(progress.step_pages(), 1ULL << 40) << "a final round is read in one go";
  std::this_thread::sleep_for(milliseconds(200));
  progress.took(10, 5000);
  EXPECT_FALSE(told());
}

}  // namespace
}  // namespace godwit
