#include "common/model/journal.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <random>
#include <thread>

#include "common/base/error.h"
#include "common/base/unique_fd.h"

namespace godwit {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

JournalRecord example() {
  JournalRecord record;
  record.migration_id = "0123456789abcdef";
  record.role = "source";
  record.state = State::kFreezing;
  record.agent = {100, 5000};
  record.process = {200, 6000};
  record.cgroup_path = "/sys/fs/cgroup/godwit-0123456789abcdef";
  record.nft_table = "godwit-0123456789abcdef";
  record.addresses = {"10.0.0.5/24 dev eth0", "fd00::5/64 dev eth0"};
  record.peer = "[fd00::2]:7000";
  record.keys_dir = "/etc/godwit/alpha";
  record.misses_pages = true;
  record.workload = "{\"name\": \"web\"}\n";
  record.registry = "/var/lib/godwit/workloads";
  return record;
}

class JournalFolderTest : public ::testing::Test {
 protected:
  JournalFolderTest() {
    char name[] = "/tmp/godwit-journal-XXXXXX";
    if (::mkdtemp(name) == nullptr) throw_system("mkdtemp {}", name);
    base_ = name;
    dir_ = base_ + "/state";
  }
  ~JournalFolderTest() override { std::filesystem::remove_all(base_); }

  std::string base_;
  std::string dir_;
};

TEST(Journal, ReadsBackWhatItWrote) {
  EXPECT_EQ(parse_journal(journal_json(example())), example());
  EXPECT_EQ(parse_journal(journal_json({})), JournalRecord{});
  for (const State state : all_states()) {
    JournalRecord record = example();
    record.state = state;
    EXPECT_EQ(parse_journal(journal_json(record)).state, state);
  }
}

TEST(Journal, RefusesWhatIsNone) {
  for (const std::string text : {"", "{", "[]", "{}", "{\"version\": 2}", "null", "\"x\""}) {
    EXPECT_THROW(parse_journal(text), Error) << text;
  }
  std::string wrong_state = journal_json(example());
  wrong_state.replace(wrong_state.find("Freezing"), 8, "Sleeping");
  EXPECT_THROW(parse_journal(wrong_state), Error);
  std::string wrong_type = journal_json(example());
  wrong_type.replace(wrong_type.find("100"), 3, "\"a\"");
  EXPECT_THROW(parse_journal(wrong_type), Error);
}

// What a crash of the host or a bad disk leaves: refused, or read as something.
TEST(Journal, TakesOrRefusesWhatIsDamaged) {
  const std::string good = journal_json(example());
  std::mt19937 random(13);
  int refused = 0;
  for (std::size_t bytes = 0; bytes + 2 < good.size(); ++bytes) {
    EXPECT_THROW(parse_journal(good.substr(0, bytes)), Error) << "cut after " << bytes;
  }
  for (int turn = 0; turn < 2000; ++turn) {
    std::string text = good;
    text[random() % text.size()] ^= static_cast<char>(1 << (random() % 8));
    try {
      parse_journal(text);
    } catch (const Error&) {
      ++refused;
    }
  }
  EXPECT_GT(refused, 500);
}

TEST_F(JournalFolderTest, IsSettledByOneAtATime) {
  const JournalFolder folder(dir_);
  const JournalRecord record = example();
  EXPECT_FALSE(folder.claim(record).valid());  // there is none
  folder.write(record);
  UniqueFd first = folder.claim(record);
  ASSERT_TRUE(first.valid());
  std::atomic<bool> second_has_it = false;
  std::thread second([&] { second_has_it = folder.claim(record).valid(); });
  folder.write(record);  // the second finds another file than the one that it waited for
  ::usleep(50'000);
  first.reset();
  second.join();
  EXPECT_TRUE(second_has_it);

  first = folder.claim(record);
  std::atomic<bool> third_has_it = true;
  std::thread third([&] { third_has_it = folder.claim(record).valid(); });
  ::usleep(50'000);
  folder.remove(record);
  EXPECT_TRUE(third_has_it);  // it waits
  first.reset();
  third.join();
  EXPECT_FALSE(third_has_it);
}

TEST_F(JournalFolderTest, KeepsTheLastStateOfEachMigrationAndRole) {
  const JournalFolder folder(dir_);
  EXPECT_TRUE(folder.load_all("source").records.empty());  // not made yet
  JournalRecord first = example();
  folder.write(first);
  first.state = State::kCommitted;
  folder.write(first);
  JournalRecord second = example();
  second.migration_id = "0000000000000001";
  folder.write(second);
  JournalRecord other_role = example();
  other_role.role = "destination";
  folder.write(other_role);
  EXPECT_THAT(folder.load_all("source").records, ElementsAre(second, first));
  EXPECT_THAT(folder.load_all("destination").records, ElementsAre(other_role));
  struct stat info {};
  ASSERT_EQ(::stat(dir_.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0700U);
  folder.remove(first);
  folder.remove(first);
  EXPECT_THAT(folder.load_all("source").records, ElementsAre(second));
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(dir_), {}), 2);  // no temporaries
}

TEST_F(JournalFolderTest, NamesBrokenFilesAndReadsTheOthers) {
  const JournalFolder folder(dir_);
  folder.write(example());
  write_file(dir_ + "/fedcba9876543210-source.json", "{\"version\": 1");
  // A copy under another name would be removed under a wrong one.
  write_file(dir_ + "/aaaaaaaaaaaaaaaa-source.json", journal_json(example()));
  write_file(dir_ + "/unrelated.txt", "x");
  const JournalFolder::Contents contents = folder.load_all("source");
  EXPECT_THAT(contents.records, ElementsAre(example()));
  ASSERT_EQ(contents.broken.size(), 2U);
}

TEST_F(JournalFolderTest, SaysWhenTheFolderCannotBeMade) {
  write_file(base_ + "/file", "x");
  const JournalFolder folder(base_ + "/file/state");
  try {
    folder.write(example());
    FAIL() << "wrote into a file as if it were a folder";
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr(base_));
  }
}

TEST(ProcessMark, TellsAReusedPidAndTheDead) {
  const std::optional<ProcessMark> own = try_mark_process(::getpid());
  ASSERT_TRUE(own);
  EXPECT_TRUE(is_alive(*own));
  EXPECT_FALSE(is_alive({own->pid, own->start_time_ticks + 1}));
  EXPECT_FALSE(try_mark_process(0));
  EXPECT_FALSE(try_mark_process(-1));

  const pid_t child = ::fork();
  if (child == 0) {
    ::pause();
    ::_exit(0);
  }
  const std::optional<ProcessMark> mark = try_mark_process(child);
  ASSERT_TRUE(mark);
  EXPECT_TRUE(is_alive(*mark));
  ::kill(child, SIGKILL);
  siginfo_t info{};
  ::waitid(P_PID, static_cast<id_t>(child), &info, WEXITED | WNOWAIT);
  EXPECT_FALSE(is_alive(*mark));  // a zombie
  ::waitpid(child, nullptr, 0);
  EXPECT_FALSE(is_alive(*mark));
}

// Every combination of facts, for every state and role.
template <typename Check>
void for_all_cases(const std::string& role, Check check) {
  for (const State state : all_states()) {
    for (int bits = 0; bits < 16; ++bits) {
      const RecoveryFacts facts{(bits & 1) != 0, (bits & 2) != 0, (bits & 4) != 0, (bits & 8) != 0};
      JournalRecord record = example();
      record.role = role;
      record.state = state;
      check(record, facts, decide_recovery(record, facts));
    }
  }
}

TEST(DecideRecovery, LeavesLiveAgentsAlone) {
  for (const char* role : {"source", "destination"}) {
    for_all_cases(role, [](const JournalRecord&, const RecoveryFacts& facts, RecoveryStep step) {
      EXPECT_EQ(step == RecoveryStep::kLeaveAlone, facts.agent_alive);
    });
  }
}

TEST(DecideRecovery, AFrozenSourceIsThawedOnlyWhenThatWasDecided) {
  for_all_cases("source", [](const JournalRecord& record, const RecoveryFacts& facts,
                             RecoveryStep step) {
    if (facts.agent_alive) return;
    const std::string what(name_of(record.state));
    const bool given_up = record.state == State::kRollingBack ||
                          record.state == State::kRolledBack || record.state == State::kRefused;
    if (!facts.process_alive) {
      EXPECT_EQ(step, RecoveryStep::kCleanUp) << what;
    } else if (record.state == State::kCompleted) {
      EXPECT_EQ(step, RecoveryStep::kEndSource) << what;
    } else if (given_up) {
      EXPECT_EQ(step, RecoveryStep::kRollBack) << what;
    } else {
      // The journal may lag behind: whatever it says, frozen means that Commit may have been sent.
      EXPECT_EQ(step, facts.group_frozen ? RecoveryStep::kAsk : RecoveryStep::kRollBack) << what;
    }
  });
}

TEST(DecideRecovery, DestinationBelievesTheFreezerOnly) {
  for_all_cases("destination",
                [](const JournalRecord& record, const RecoveryFacts& facts, RecoveryStep step) {
                  if (facts.agent_alive) return;
                  const std::string what(name_of(record.state));
                  if (!facts.process_alive) {
                    EXPECT_EQ(step, RecoveryStep::kCleanUp) << what;
                  } else if (facts.group_exists && facts.group_frozen) {
                    EXPECT_EQ(step, RecoveryStep::kDiscard) << what;
                  } else {
                    EXPECT_EQ(step, RecoveryStep::kKeepRunning) << what;
                  }
                });
}

}  // namespace
}  // namespace godwit
