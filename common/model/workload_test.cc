#include "common/model/workload.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <unistd.h>

#include <filesystem>

#include "common/base/error.h"

namespace godwit {
namespace {

using ::testing::HasSubstr;

class WorkloadFolderTest : public ::testing::Test {
 protected:
  WorkloadFolderTest() {
    char name[] = "/tmp/workload-test-XXXXXX";
    if (::mkdtemp(name) == nullptr) throw_system("mkdtemp");
    dir_ = name;
  }
  ~WorkloadFolderTest() override { std::filesystem::remove_all(dir_); }

  WorkloadFolder folder() const { return WorkloadFolder(dir_ + "/below/registry"); }

  std::string dir_;
};

Workload example(const std::string& name = "web") {
  Workload workload;
  workload.name = name;
  workload.priority = 4;
  workload.options = {"--addresses=move", "--verify"};
  workload.program = "redis-server";
  workload.process = *try_mark_process(::getpid());
  workload.boot_id = this_boot();
  workload.home = "alpha";
  workload.home_address = "10.0.0.1:7000";
  return workload;
}

Workload away(Workload workload) {
  workload.process = {};
  workload.away = Workload::Away{"10.0.0.2:7000", 17, 1'700'000'000};
  return workload;
}

TEST(Workload, SurvivesTheWayThroughText) {
  EXPECT_EQ(parse_workload(workload_json(example())), example());
  EXPECT_EQ(parse_workload(workload_json(away(example()))), away(example()));
}

TEST(Workload, RefusesTextThatIsNone) {
  EXPECT_THROW(parse_workload(""), Error);
  EXPECT_THROW(parse_workload("[]"), Error);
  EXPECT_THROW(parse_workload("{\"version\": 2}"), Error);
  EXPECT_THROW(parse_workload(workload_json(example("../web"))), Error);
}

TEST(Workload, HasANameThatCanBeAFile) {
  for (const char* name : {"a", "web-1", "A.b_c", "0"}) EXPECT_TRUE(is_workload_name(name)) << name;
  for (const char* name : {"", ".", "..", ".a", "-a", "a/b", "a b", "\xc3\xa4", "a\n"}) {
    EXPECT_FALSE(is_workload_name(name)) << name;
  }
  EXPECT_TRUE(is_workload_name(std::string(64, 'x')));
  EXPECT_FALSE(is_workload_name(std::string(65, 'x')));
}

TEST(Workload, IsOneProcessOfOneBoot) {
  EXPECT_EQ(whereabouts_of(example()), Whereabouts::kHere);
  Workload later = example();
  ++later.process.start_time_ticks;
  EXPECT_EQ(whereabouts_of(later), Whereabouts::kGone);
  Workload earlier = example();
  earlier.boot_id = "00000000-0000-0000-0000-000000000000";
  EXPECT_EQ(whereabouts_of(earlier), Whereabouts::kGone);
  EXPECT_EQ(whereabouts_of(away(example())), Whereabouts::kAway);
}

proto::TravellingWorkload travelling(bool returning) {
  proto::TravellingWorkload travels;
  travels.set_name("web");
  travels.set_priority(4);
  travels.add_options("--verify");
  travels.set_returning(returning);
  return travels;
}

TEST(ArrivedWorkload, HasWhoeverSentItAsItsHome) {
  const Workload arrived = arrived_workload(travelling(false), "beta", "10.0.0.2:7000", {});
  EXPECT_EQ(arrived.name, "web");
  EXPECT_EQ(arrived.options, (std::vector<std::string>{"--verify"}));
  EXPECT_EQ(arrived.home, "beta");
  EXPECT_EQ(arrived.home_address, "10.0.0.2:7000");
}

TEST(ArrivedWorkload, IsAtHomeAgainWhenItReturns) {
  EXPECT_EQ(arrived_workload(travelling(true), "beta", "10.0.0.2:7000", {}).home, "");
}

TEST(ArrivedWorkload, ReturnsToAHostThatHadItFromAnother) {
  const Workload arrived = arrived_workload(travelling(true), "gamma", "c:1", away(example()));
  EXPECT_EQ(arrived.home, "alpha");
  EXPECT_EQ(arrived.home_address, "10.0.0.1:7000");
}

TEST_F(WorkloadFolderTest, KeepsThemByPriority) {
  EXPECT_TRUE(folder().load_all().workloads.empty());
  EXPECT_FALSE(folder().find("web"));
  Workload urgent = example("urgent");
  urgent.priority = 9;
  folder().save(example("b"));
  folder().save(example("a"), WorkloadFolder::Sync::kLater);
  folder().save(urgent);
  const auto found = folder().load_all();
  ASSERT_EQ(found.workloads.size(), 3U);
  EXPECT_EQ(found.workloads[0], urgent);
  EXPECT_EQ(found.workloads[1].name, "a");
  EXPECT_EQ(found.workloads[2].name, "b");
  folder().remove("a");
  folder().remove("a");
  EXPECT_FALSE(folder().find("a"));
}

TEST_F(WorkloadFolderTest, NamesWhatCantBeRead) {
  folder().save(example("good"));
  write_file(folder().dir() + "/bad.workload", "{");
  write_file(folder().dir() + "/other.workload", workload_json(example("good")));
  const auto found = folder().load_all();
  EXPECT_EQ(found.workloads.size(), 1U);
  ASSERT_EQ(found.broken.size(), 2U);
  EXPECT_THAT(found.broken[0] + found.broken[1], HasSubstr("bad.workload"));
}

TEST_F(WorkloadFolderTest, IsClaimedOnce) {
  UniqueFd first = folder().try_claim();
  EXPECT_TRUE(first.valid());
  EXPECT_FALSE(folder().try_claim().valid());
  first.reset();
  EXPECT_TRUE(folder().try_claim().valid());
}

JournalRecord journal_of(const WorkloadFolder& folder, const Workload& workload) {
  JournalRecord record;
  record.peer = "10.0.0.2:7000";
  record.process = workload.process;
  record.workload = workload_json(workload);
  record.registry = folder.dir();
  return record;
}

TEST_F(WorkloadFolderTest, NotesADeparture) {
  folder().save(example());
  note_departure(journal_of(folder(), example()), 17);
  const auto found = folder().find("web");
  ASSERT_TRUE(found && found->away);
  EXPECT_EQ(found->away->to, "10.0.0.2:7000");
  EXPECT_EQ(found->away->pid, 17);
  EXPECT_EQ(found->process.pid, 0);
}

TEST_F(WorkloadFolderTest, LeavesWhatIsRegisteredForAnotherProcessAlone) {
  Workload other = example();
  ++other.process.start_time_ticks;
  folder().save(other);
  note_departure(journal_of(folder(), example()), 17);
  EXPECT_EQ(folder().find("web"), other);
  note_departure(JournalRecord(), 17);  // of none that is registered
}

TEST_F(WorkloadFolderTest, NotesAnArrival) {
  folder().save(away(example()));
  Workload arriving = arrived_workload(travelling(true), "beta", "", away(example()));
  JournalRecord record = journal_of(folder(), arriving);
  record.process = example().process;
  note_arrival(record, WorkloadFolder::Sync::kNow);
  const auto found = folder().find("web");
  ASSERT_TRUE(found);
  EXPECT_EQ(whereabouts_of(*found), Whereabouts::kHere);
  EXPECT_EQ(found->home, "alpha");
}

}  // namespace
}  // namespace godwit
