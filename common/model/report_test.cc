#include "common/model/report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "common/base/unique_fd.h"

namespace godwit {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;
using ::testing::Not;

class TemporaryFolder {
 public:
  TemporaryFolder() {
    char name[] = "/tmp/godwit-report-XXXXXX";
    if (::mkdtemp(name) == nullptr) throw_system("mkdtemp {}", name);
    path_ = name;
  }
  ~TemporaryFolder() { std::filesystem::remove_all(path_); }
  std::string file(const std::string& name) const { return path_ + "/" + name; }
  std::size_t count() const {
    return static_cast<std::size_t>(std::distance(std::filesystem::directory_iterator(path_), {}));
  }

 private:
  std::string path_;
};

MigrationReport example() {
  MigrationReport report;
  report.state = State::kCompleted;
  report.migration_id = "0123456789abcdef";
  report.destination = "10.0.0.2:7000";
  report.pid_source = 1234;
  report.pid_destination = 77;
  report.pids = "namespace";
  report.addresses = "keep";
  report.tracker = "write-protect";
  report.total_ns = 1'500'000'000;
  report.blackout_ns = 4'212'345;
  report.frozen_unix_ns = 1'700'000'000'123'456'789;
  report.phases_ns = {{"Connecting", 2'000'000}, {"Preflight", 1'000}};
  report.blackout_phases_ns = {{"freeze", 300'000}, {"last pages", 1'200'000}};
  report.resident_bytes = 1 << 30;
  add_round(report, {1, 1000, 24, 4'100'000, 8'000'000, 900'000, 0, 512'000'000,
                     1'699'999'999'000'000'001});
  add_round(report, {2, 10, 0, 41'000, 400'000, 100'000, 1250, 102'500'000});
  return report;
}

TEST(ReportJson, HoldsEveryField) {
  const json document = json::parse(report_json(example()));
  EXPECT_EQ(document["command"], "migrate");
  EXPECT_EQ(document["state"], "Completed");
  EXPECT_EQ(document["exit_code"], 0);
  EXPECT_EQ(document["migration_id"], "0123456789abcdef");
  EXPECT_EQ(document["destination"], "10.0.0.2:7000");
  EXPECT_EQ(document["pid_source"], 1234);
  EXPECT_EQ(document["pid_destination"], 77);
  EXPECT_EQ(document["pids"], "namespace");
  EXPECT_EQ(document["addresses"], "keep");
  EXPECT_EQ(document["tracker"], "write-protect");
  EXPECT_DOUBLE_EQ(document["total_ms"], 1500);
  EXPECT_DOUBLE_EQ(document["blackout_ms"], 4.212);
  EXPECT_EQ(document["frozen_unix_ns"], 1'700'000'000'123'456'789);
  EXPECT_DOUBLE_EQ(document["phases_ms"]["Connecting"], 2);
  EXPECT_DOUBLE_EQ(document["phases_ms"]["Preflight"], 0.001);
  EXPECT_DOUBLE_EQ(document["blackout_phases_ms"]["last pages"], 1.2);
  EXPECT_EQ(document["bytes_sent"], 4'141'000);
  EXPECT_EQ(document["pages_sent"], 1010);
  EXPECT_EQ(document["zero_pages"], 24);
  EXPECT_EQ(document["resident_bytes"], 1 << 30);
  EXPECT_TRUE(document["error"].is_null());
  EXPECT_EQ(document["findings"], json::array());
  EXPECT_EQ(document["verify_differences"], json::array());
  ASSERT_EQ(document["rounds"].size(), 2U);
  EXPECT_EQ(document["rounds"][1]["round"], 2);
  EXPECT_DOUBLE_EQ(document["rounds"][0]["ms"], 8);
  EXPECT_EQ(document["rounds"][1]["dirty_pages_per_s"], 1250);
  EXPECT_EQ(document["rounds"][0]["began_unix_ns"], 1'699'999'999'000'000'001);
}

TEST(ReportJson, TellsErrorsAndFindings) {
  MigrationReport report = example();
  report.state = State::kRefused;
  report.error = describe_error(Refused("pid-is-zombie", "pid 7 has exited", "nothing to move"));
  warn(report.findings, "kernel-differs", "alpha and beta", "6.1 and 6.18", "nothing to do");
  report.verify_differences = {"threads[0].comm: a, b"};
  const json document = json::parse(report_json(report));
  EXPECT_EQ(document["exit_code"], 2);
  EXPECT_EQ(document["error"]["id"], "pid-is-zombie");
  EXPECT_EQ(document["error"]["story"], "pid 7 has exited");
  EXPECT_EQ(document["error"]["hint"], "nothing to move");
  EXPECT_EQ(document["findings"][0]["id"], "kernel-differs");
  EXPECT_EQ(document["findings"][0]["warning"], true);
  EXPECT_EQ(document["verify_differences"][0], "threads[0].comm: a, b");
}

TEST(ReportJson, StandsBytesThatAreNoText) {
  MigrationReport report = example();
  report.error = ErrorReport{"open /srv/\xff\xfe", "", ""};
  EXPECT_NO_THROW(json::parse(report_json(report)));
}

TEST(ReportJson, EveryFieldIsDocumented) {
  const std::string source = __FILE__;
  const std::string text =
      read_file(source.substr(0, source.rfind("common/model/")) + "docs/report.md");
  MigrationReport report = example();
  report.error = ErrorReport{"a", "b", "c"};
  refuse(report.findings, "id", "object", "problem", "way out");
  const json document = json::parse(report_json(report));
  for (const auto& [name, value] : document.items()) {
    EXPECT_THAT(text, HasSubstr(fmt::format("`{}`", name)));
  }
  for (const char* part : {"error", "findings", "rounds"}) {
    const json& inner = document[part].is_array() ? document[part][0] : document[part];
    for (const auto& [name, value] : inner.items()) {
      EXPECT_THAT(text, HasSubstr(fmt::format("`{}`", name))) << "in " << part;
    }
  }
}

TEST(ReportFileTest, ReplacesAFileAsAWhole) {
  const TemporaryFolder folder;
  ReportFile(folder.file("r.json")).write(example());
  MigrationReport second = example();
  second.pid_source = 4321;
  {
    ReportFile file(folder.file("r.json"));
    EXPECT_EQ(read_file(folder.file("r.json")), report_json(example())) << "still the old one";
    file.write(second);
  }
  EXPECT_EQ(read_file(folder.file("r.json")), report_json(second));
  EXPECT_EQ(folder.count(), 1U);
}

TEST(ReportFileTest, RefusesBeforehandWhatCannotBeWritten) {
  const TemporaryFolder folder;
  const auto refused = [](const std::string& path, const char* part) {
    try {
      ReportFile file(path);
      ADD_FAILURE() << path << " was accepted";
    } catch (const Refused& error) {
      EXPECT_EQ(error.id(), "report-unwritable");
      EXPECT_THAT(error.what(), HasSubstr(part));
    }
  };
  refused(folder.file("no/r.json"), "No such file or directory");
  refused("/tmp", "is a directory");
  refused("/proc/r.json", "/proc/");
  EXPECT_EQ(folder.count(), 0U);
}

TEST(ReportFileTest, RefusesADiskThatIsFull) {
  const TemporaryFolder folder;
  ASSERT_EQ(::unshare(CLONE_NEWNS), 0);  // of this thread, which is the test program's only one
  ASSERT_EQ(::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr), 0);
  std::filesystem::create_directory(folder.file("small"));
  ASSERT_EQ(::mount("none", folder.file("small").c_str(), "tmpfs", 0, "size=64k"), 0);
  try {
    ReportFile file(folder.file("small/r.json"));
    ADD_FAILURE() << "a full disk was accepted";
  } catch (const Refused& error) {
    EXPECT_THAT(error.what(), HasSubstr("No space left on device"));
  }
  EXPECT_TRUE(std::filesystem::is_empty(folder.file("small")));
  EXPECT_EQ(::umount(folder.file("small").c_str()), 0);
}

TEST(ReportFileTest, LeavesNothingWhenItIsNotWritten) {
  const TemporaryFolder folder;
  { ReportFile file(folder.file("r.json")); }
  EXPECT_EQ(folder.count(), 0U);
}

TEST(ReportFileTest, SaysThatADeviceIsFull) {
  ReportFile file("/dev/full");
  EXPECT_THROW(file.write(example()), Error);
}

TEST(ReportFileTest, WritesIntoADeviceInsteadOfReplacingIt) {
  ReportFile("/dev/null").write(example());
  struct stat info {};
  ASSERT_EQ(::stat("/dev/null", &info), 0);
  EXPECT_TRUE(S_ISCHR(info.st_mode));
}

TEST(SetPhases, TakesStateAndTimesFromTheMachine) {
  PhaseMachine machine("0123456789abcdef");
  machine.apply(Event::kConnected);
  MigrationReport report;
  set_phases(report, machine, machine.history().back().entered_ns + 100);
  EXPECT_EQ(report.state, State::kPreflight);
  ASSERT_EQ(report.phases_ns.size(), 2U);
  EXPECT_EQ(report.phases_ns[1], (std::pair<std::string, std::int64_t>{"Preflight", 100}));
}

}  // namespace
}  // namespace godwit
