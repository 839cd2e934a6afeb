#include "source-agent/drain_item.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include "source-agent/drain_text.h"

namespace godwit {
namespace {

using Stage = DrainItem::Stage;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr const char* kMovedReport =
    R"({"state": "Completed", "pid_destination": 17, "blackout_ms": 3.1, "total_ms": 900.0,
        "bytes_sent": 4096, "error": null, "findings": []})";
constexpr const char* kRefusedReport =
    R"({"error": {"story": "fd 3: a pipe", "hint": "close it", "id": "fd-fifo"},
        "findings": [
          {"id": "fd-fifo", "object": "fd 3", "problem": "a pipe", "way_out": "close it",
           "warning": false},
          {"id": "security-label", "object": "pid 3", "problem": "not carried", "way_out": "-",
           "warning": true},
          {"id": "pid-taken", "object": "pid 3", "problem": "is taken", "way_out": "another",
           "warning": false}]})";

DrainItem item(Stage stage) {
  DrainItem made;
  made.workload.name = "web";
  made.workload.program = "redis-server";
  made.workload.process.pid = 12;
  made.to = "10.0.0.2:7000";
  made.stage = stage;
  made.begun = stage == Stage::kMoving;
  return made;
}

TEST(DrainItem, IsMovedWithExitCodeZero) {
  DrainItem moved = item(Stage::kMoving);
  settle_item(moved, 0, kMovedReport, "");
  EXPECT_EQ(moved.stage, Stage::kMoved);
  EXPECT_EQ(moved.pid_there, 17);
  EXPECT_THAT(stage_text(moved), AllOf(HasSubstr("web: moved"), HasSubstr("pid 12 is pid 17"),
                                       HasSubstr("blackout 3.1 ms")));
}

TEST(DrainItem, TellsEverythingThatStandsAgainstIt) {
  DrainItem refused = item(Stage::kChecking);
  settle_item(refused, 2, kRefusedReport, "");
  EXPECT_EQ(refused.stage, Stage::kStayed);
  EXPECT_THAT(refused.story, AllOf(HasSubstr("[fd-fifo]"), HasSubstr("[pid-taken]"),
                                   Not(HasSubstr("security-label"))));
  EXPECT_EQ(refused.hint, "close it");
  EXPECT_THAT(refused.warnings, HasSubstr("security-label"));
}

TEST(DrainItem, IsInDoubtWhenNobodyKnows) {
  DrainItem doubtful = item(Stage::kMoving);
  settle_item(doubtful, 3, R"({"error": {"story": "no answer", "hint": "", "id": ""}})", "");
  EXPECT_EQ(doubtful.stage, Stage::kInDoubt);
  EXPECT_THAT(doubtful.hint, HasSubstr("migrate recover"));
  DrainItem killed = item(Stage::kMoving);
  settle_item(killed, -SIGKILL, "", "");
  EXPECT_EQ(killed.stage, Stage::kInDoubt);
  EXPECT_THAT(killed.story, HasSubstr("signal 9"));
}

TEST(DrainItem, WasNotTouchedWhenItsCheckIsKilled) {
  DrainItem killed = item(Stage::kChecking);
  settle_item(killed, -SIGKILL, "", "");
  EXPECT_EQ(killed.stage, Stage::kStayed);
}

TEST(DrainItem, TellsWhatWasSaidWithoutAReport) {
  DrainItem wrong = item(Stage::kMoving);
  settle_item(wrong, 2, "", "migrate: no keys\n  issue them\n");
  EXPECT_EQ(wrong.stage, Stage::kStayed);
  EXPECT_EQ(wrong.story, "its migrate ended with 2: migrate: no keys");
  settle_item(wrong = item(Stage::kMoving), 1, "{ broken", "");
  EXPECT_EQ(wrong.stage, Stage::kStayed);
}

TEST(DrainText, ToldForPeopleAndPrograms) {
  std::vector<DrainItem> items{item(Stage::kMoving), item(Stage::kMoving), item(Stage::kReady)};
  settle_item(items[0], 0, kMovedReport, "");
  settle_item(items[1], 1, R"({"error": {"story": "the link broke", "hint": "", "id": ""}})", "");
  const DrainSummary summary{.exit_code = 1, .total_ns = 2'000'000'000};
  EXPECT_THAT(drain_text(items, summary),
              AllOf(HasSubstr("1 of 3 registered workloads moved away in 2.0 s"),
                    HasSubstr("longest blackout 3.1 ms"), HasSubstr("the link broke"),
                    HasSubstr("not begun")));
  EXPECT_THAT(drain_json(items, summary),
              AllOf(HasSubstr("\"stayed\": 2"), HasSubstr("\"state\": \"Completed\"")));
}

TEST(DrainLines, FitTheTerminal) {
  std::vector<DrainItem> items{item(Stage::kMoving), item(Stage::kMoving), item(Stage::kMoved)};
  MigrationStatus status;
  status.state = State::kPreCopy;
  status.round = 2;
  status.pages_left = 1415;
  const std::vector<ActiveItem> active{{&items[0], status}, {&items[1], {}}};
  const auto lines = drain_lines(items, active, 3'000'000'000, 70, 10);
  ASSERT_EQ(lines.size(), 3U);
  EXPECT_THAT(lines[0][0].text, HasSubstr("1 of 3 moved"));
  EXPECT_THAT(lines[1][0].text, HasSubstr("PreCopy: round 2, 1415 pages left"));
  for (const auto& line : drain_lines(items, active, 0, 12, 2)) EXPECT_LE(width_of(line), 12U);
  EXPECT_EQ(drain_lines(items, active, 0, 12, 2).size(), 2U);
}

}  // namespace
}  // namespace godwit
