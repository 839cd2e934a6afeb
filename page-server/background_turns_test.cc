#include "page-server/background_turns.h"

#include <gtest/gtest.h>

namespace godwit {
namespace {

constexpr std::int64_t kBegin = 5'000'000'000;

TEST(BackgroundTurns, StandsBackRightBehindAFault) {
  BackgroundTurns turns;
  EXPECT_EQ(turns.wait_ns(kBegin), 0);
  turns.answered(kBegin + 1000);
  EXPECT_EQ(turns.wait_ns(kBegin + 1000), BackgroundTurns::kCloseNs);
  turns.answered(kBegin + 200'000);  // the next one meanwhile
  EXPECT_EQ(turns.wait_ns(kBegin + 301'000), BackgroundTurns::kCloseNs - 101'000);
  EXPECT_EQ(turns.wait_ns(kBegin + 500'000), 0);
}

TEST(BackgroundTurns, FaultsWithoutEndDoNotStopIt) {
  BackgroundTurns turns;
  std::int64_t now = kBegin;
  std::int64_t stood_back = 0;
  constexpr std::int64_t kPieceNs = 100'000;
  while (now < kBegin + 1'000'000'000) {
    turns.answered(now);
    const std::int64_t wait = turns.wait_ns(now);
    stood_back += wait;
    now += wait > 0 ? wait : kPieceNs;
  }
  const std::int64_t part = 1'000'000'000 / BackgroundTurns::kStandBackPart;
  EXPECT_GT(stood_back, BackgroundTurns::kStandBackNs);
  EXPECT_LE(stood_back, BackgroundTurns::kStandBackNs + part + BackgroundTurns::kCloseNs);
}

}  // namespace
}  // namespace godwit
