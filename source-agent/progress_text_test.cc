#include "source-agent/progress_text.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace godwit {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::StartsWith;

constexpr std::int64_t kMs = 1'000'000;

ProgressFacts copying() {
  ProgressFacts facts;
  facts.state = State::kPreCopy;
  facts.pid = 1234;
  facts.destination = "10.0.0.2:7000";
  facts.elapsed_ns = 12'345 * kMs;
  facts.round = 2;
  facts.round_pages = 262144;
  facts.pages_left = 65536;
  facts.dirty_pages_per_s = 1250;
  facts.bandwidth_bytes_per_s = 512'000'000;
  facts.pause_ns = 4'200'000;
  facts.pause_ns_max = 10 * kMs;
  facts.switch_in = {SwitchEstimate::Kind::kAbout, 1'500 * kMs};
  return facts;
}

std::vector<std::string> plain(const std::vector<StyledLine>& lines) {
  std::vector<std::string> out;
  for (const StyledLine& line : lines) {
    out.emplace_back();
    for (const StyledText& part : line) out.back() += part.text;
  }
  return out;
}

std::vector<std::string> at(const ProgressFacts& facts, int columns, int rows = 24) {
  return plain(progress_lines(facts, columns, rows));
}

TEST(ProgressLines, SayEverythingWhereThereIsRoom) {
  EXPECT_THAT(
      at(copying(), 120),
      ElementsAre("pid 1234 to 10.0.0.2:7000   12.3 s", "PreCopy: copying while it runs",
                  "round 2   [###############.....]  75 %    65536 of 262144 pages left",
                  "writes 1250 pages/s   sends 512.0 MB/s   pause 4.2 ms (10.0 ms wanted)   "
                  "switch in about 1.5 s"));
}

TEST(ProgressLines, SayLessOnANarrowTerminal) {
  EXPECT_THAT(at(copying(), 40),
              ElementsAre("PreCopy: copying while it runs", "round 2    65536 of 262144 pages left",
                          "writes 1250 pages/s   sends 512.0 MB/s", "pause 4.2 ms (10.0 ms wanted)",
                          "switch in about 1.5 s"));
  EXPECT_THAT(at(copying(), 12), ElementsAre("PreCopy: cop", "round 2", " 65536 of 26",
                                             "pause 4.2 ms", "switch in ab"));
}

TEST(ProgressLines, NeverLeaveTheTerminal) {
  for (int columns = 1; columns < 130; ++columns) {
    for (int rows = 1; rows < 8; ++rows) {
      const std::vector<std::string> lines = at(copying(), columns, rows);
      EXPECT_GE(lines.size(), 1U);
      EXPECT_LE(lines.size(), static_cast<std::size_t>(rows));
      for (const std::string& line : lines) {
        EXPECT_LE(line.size(), static_cast<std::size_t>(columns)) << line;
      }
    }
  }
  EXPECT_THAT(at(copying(), 80, 1), ElementsAre("PreCopy: copying while it runs"));
  EXPECT_THAT(at(copying(), 0, 0), ElementsAre("P"));
}

TEST(ProgressLines, SayWhatIsNotKnownYet) {
  ProgressFacts facts = copying();
  facts.round = 1;
  facts.round_pages.reset();
  facts.dirty_pages_per_s.reset();
  facts.bandwidth_bytes_per_s.reset();
  facts.pause_ns.reset();
  facts.switch_in = {};
  const auto lines = at(facts, 120);
  ASSERT_EQ(lines.size(), 4U);
  EXPECT_EQ(lines[2], "round 1   looking for written pages");
  EXPECT_EQ(lines[3], "writes ?   sends ?   pause ? (10.0 ms wanted)   switch ?");
  facts.switch_in = {SwitchEstimate::Kind::kAtLeast, 8'000 * kMs};
  EXPECT_THAT(at(facts, 120)[3], HasSubstr("switch in 8.0 s or more"));
  facts.switch_in = {SwitchEstimate::Kind::kNever, 0};
  EXPECT_THAT(at(facts, 120)[3], HasSubstr("switch not in sight"));
}

TEST(ProgressLines, SayWhatIsGoingOnInEachState) {
  ProgressFacts facts = copying();
  for (const State state : {State::kConnecting, State::kPreflight, State::kBuilding,
                            State::kFreezing, State::kInDoubt, State::kCompleted}) {
    facts.state = state;
    const auto lines = at(facts, 120);
    ASSERT_EQ(lines.size(), 2U) << name_of(state);
    EXPECT_THAT(lines[1], StartsWith(std::string(name_of(state)) + ": "));
  }
  facts.state = State::kRollingBack;
  EXPECT_EQ(at(facts, 120)[1], "RollingBack: rolling back");
  facts.state = State::kFreezing;
  facts.switching = true;
  EXPECT_EQ(at(facts, 120)[1], "Freezing: the switch");
}

TEST(ProgressLines, HoldNoControlCharacters) {
  ProgressFacts facts = copying();
  facts.destination = "a\x1b[2Jb\n";
  EXPECT_THAT(at(facts, 120)[0], StartsWith("pid 1234 to a?[2Jb?"));
}

TEST(ProgressLines, GrowByNothingWhileNumbersShrink) {
  ProgressFacts facts = copying();
  facts.pages_left = 7;
  const auto later = at(facts, 120);
  EXPECT_EQ(later[2].size(), at(copying(), 120)[2].size());
}

}  // namespace
}  // namespace godwit
