#include "common/model/report_text.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace godwit {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

constexpr std::int64_t kMs = 1'000'000;

MigrationReport example() {
  MigrationReport report;
  report.state = State::kCompleted;
  report.destination = "10.0.0.2:7000";
  report.pid_source = 1234;
  report.pid_destination = 77;
  report.total_ns = 1'500 * kMs;
  report.blackout_ns = 4'000'000;
  report.blackout_phases_ns = {
      {"stop", 10'000}, {"describe", 1'000'000}, {"wire", 2'970'000}, {"freeze", 20'000}};
  report.resident_bytes = 4'000'000;
  RoundReport first;
  first.round = 1;
  first.pages = 1000;
  first.zero_pages = 24;
  first.bytes = 4'100'000;
  first.ns = 8 * kMs;
  first.bandwidth_bytes_per_s = 512'000'000;
  RoundReport second;
  second.round = 2;
  second.pages = 10;
  second.bytes = 41'000;
  second.ns = 400'000;
  second.dirty_pages_per_s = 1250;
  add_round(report, first);
  add_round(report, second);
  return report;
}

TEST(ReportText, TellsTheWholeMove) {
  EXPECT_EQ(report_text(example()),
            R"(moved: pid 1234 here is pid 77 at 10.0.0.2:7000, in 1.5 s

round      pages       zero       sent        time    bandwidth  written meanwhile
    1       1000         24     4.1 MB      8.0 ms   512.0 MB/s                  -
    2         10          0    41.0 kB      0.4 ms            -                  -  in the blackout

sent 4.1 MB in 2 rounds: 1.04 times the 4.0 MB that were resident
blackout 4.00 ms
  describe              1.00 ms   25 %  ########
  wire                  2.97 ms   74 %  ######################
  everything else       0.03 ms    1 %
)");
}

TEST(ReportText, LeavesTheMiddleOfManyRoundsOut) {
  MigrationReport report = example();
  for (std::uint32_t round = 3; round <= 30; ++round) add_round(report, {round, 5, 0, 20'000, kMs});
  const std::string text = report_text(report);
  EXPECT_THAT(text, HasSubstr("\n    6 "));
  EXPECT_THAT(text, HasSubstr("\n  ... 18 more\n   25 "));
  EXPECT_THAT(text, Not(HasSubstr("\n    7 ")));
  EXPECT_THAT(text, HasSubstr("in 30 rounds"));
}

TEST(ReportText, SaysWhereTheProcessRuns) {
  MigrationReport report = example();
  report.state = State::kInDoubt;
  EXPECT_THAT(report_text(report), HasSubstr("migrate recover"));
  report.state = State::kRolledBack;
  report.error = ErrorReport{"the destination is gone", "look there", ""};
  const std::string text = report_text(report);
  EXPECT_THAT(text, HasSubstr("rolled back after 1.5 s: pid 1234 runs on here"));
  EXPECT_THAT(text, HasSubstr("error: the destination is gone\nhint: look there\n"));
  EXPECT_THAT(text, HasSubstr("sent 4.1 MB")) << "what it had come to";
  report.command = "check";
  EXPECT_EQ(outcome_line(report), "not found out; nothing was touched");
  EXPECT_THAT(text, Not(HasSubstr("blackout 4.00"))) << "it was none: it runs on";
}

TEST(ReportText, TellsEachReasonOnce) {
  MigrationReport report;
  report.state = State::kRefused;
  report.pid_source = 7;
  report.destination = "b:1";
  refuse(report.findings, "fd-terminal", "fd 0", "is a terminal", "redirect it");
  refuse(report.findings, "memory-short", "9 MiB", "there are 3", "free some");
  warn(report.findings, "kernel-differs", "a and b", "6.1 and 6.18", "");
  report.error = ErrorReport{"fd 0: is a terminal", "redirect it", "fd-terminal"};
  EXPECT_EQ(report_text(report),
            "refused [fd-terminal] fd 0: is a terminal\n"
            "    redirect it\n"
            "refused [memory-short] 9 MiB: there are 3\n"
            "    free some\n"
            "warning [kernel-differs] a and b: 6.1 and 6.18\n"
            "refused, nothing was touched: pid 7 can't move to b:1 for 2 reasons\n");
}

TEST(ReportText, GivesARoundOneLine) {
  RoundReport round = example().rounds[1];
  round.bandwidth_bytes_per_s = 102'500'000;
  EXPECT_EQ(round_line(round),
            "round 2: 10 pages, 0 zero, 41.0 kB in 0.4 ms, 102.5 MB/s, 1250 pages/s written "
            "meanwhile");
}

}  // namespace
}  // namespace godwit
