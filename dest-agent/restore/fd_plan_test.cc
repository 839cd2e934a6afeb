#include "dest-agent/restore/fd_plan.h"

#include <fcntl.h>
#include <gtest/gtest.h>

#include <random>

namespace godwit {
namespace {

proto::OpenFile& add_file(proto::FdTable& table, int id) {
  auto* descriptor = table.add_descriptors();
  descriptor->set_fd(id);
  descriptor->set_file(static_cast<std::uint32_t>(id));
  auto* file = table.add_files();
  file->set_id(static_cast<std::uint32_t>(id));
  return *file;
}

void add_duplicate(proto::FdTable& table, int fd, int file, bool close_on_exec = false) {
  auto* descriptor = table.add_descriptors();
  descriptor->set_fd(fd);
  descriptor->set_file(static_cast<std::uint32_t>(file));
  descriptor->set_close_on_exec(close_on_exec);
}

void add_regular(proto::FdTable& table, int id, const std::string& path) {
  add_file(table, id).mutable_regular_file()->set_path(path);
}

TEST(FdPlan, FromNothingMakesEverything) {
  proto::FdTable want;
  add_regular(want, 3, "/a");
  add_duplicate(want, 9, 3, true);
  EXPECT_EQ(plan_fd_table({}, want).print(), "make 3\nduplicate 3 to 9 cloexec\n");
}

TEST(FdPlan, SecondTimeIsEmpty) {
  proto::FdTable want;
  add_regular(want, 3, "/a");
  add_duplicate(want, 9, 3);
  add_file(want, 4).mutable_eventfd()->set_count(7);
  proto::FdTable later = want;
  later.mutable_files(1)->mutable_eventfd()->set_count(8);        // a count is no shape
  later.mutable_files(0)->mutable_regular_file()->set_offset(5);  // nor is an offset
  later.mutable_files(0)->set_status_flags(O_NONBLOCK);
  EXPECT_TRUE(plan_fd_table(want, later).empty());
}

TEST(FdPlan, ClosesReplacesAndDuplicatesAgain) {
  proto::FdTable have;
  add_regular(have, 3, "/a");
  add_duplicate(have, 4, 3);
  add_regular(have, 5, "/b");
  add_regular(have, 6, "/c");
  proto::FdTable want;
  add_regular(want, 3, "/other");
  add_duplicate(want, 4, 3);
  add_regular(want, 6, "/c");
  EXPECT_EQ(plan_fd_table(have, want).print(),
            "close 3\nclose 4\nclose 5\nmake 3\nduplicate 3 to 4\n");
}

TEST(FdPlan, ClosingTheLowestNumberMakesTheFileAgain) {
  proto::FdTable have;
  add_regular(have, 3, "/a");
  add_duplicate(have, 7, 3);
  proto::FdTable want;
  add_regular(want, 7, "/a");
  EXPECT_EQ(plan_fd_table(have, want).print(), "close 3\nclose 7\nmake 7\n");
}

TEST(FdPlan, CloseOnExecChangesInPlace) {
  proto::FdTable have;
  add_regular(have, 3, "/a");
  proto::FdTable want = have;
  want.mutable_descriptors(0)->set_close_on_exec(true);
  EXPECT_EQ(plan_fd_table(have, want).print(), "cloexec 3 on\n");
}

TEST(FdPlan, UnixPairsAreMadeTogether) {
  proto::FdTable have;
  auto& a = *add_file(have, 3).mutable_unix_socket();
  auto& b = *add_file(have, 4).mutable_unix_socket();
  a.set_inode(100);
  a.set_peer(101);
  b.set_inode(101);
  b.set_peer(100);
  add_duplicate(have, 5, 3);
  proto::FdTable want = have;  // 3 was closed: its file is now known as 5
  want.clear_descriptors();
  add_duplicate(want, 4, 4);
  add_duplicate(want, 5, 5);
  want.mutable_files(0)->set_id(5);
  EXPECT_EQ(plan_fd_table(have, want).print(), "close 3\nclose 4\nclose 5\nmake 4\nmake 5\n");
}

// A toy kernel: descriptor -> what it was made from. Whatever came before, the result is the same.
std::map<int, std::string> apply(const FdPlan& plan, const proto::FdTable& want,
                                 std::map<int, std::string> table) {
  std::map<std::uint32_t, std::string> keys;
  for (const auto& file : want.files()) keys[file.id()] = make_key(file);
  for (const int fd : plan.close) EXPECT_EQ(table.erase(fd), 1U);
  for (const auto id : plan.make) {
    EXPECT_TRUE(table.emplace(static_cast<int>(id), keys[id]).second);
  }
  for (const auto& entry : plan.duplicate) {
    EXPECT_TRUE(table.emplace(entry.fd, table.at(static_cast<int>(entry.file))).second);
  }
  return table;
}

proto::FdTable random_table(std::mt19937& random) {
  proto::FdTable out;
  std::vector<int> files;
  for (int fd = 0; fd < 8; ++fd) {
    if (random() % 3 == 0) continue;
    if (!files.empty() && random() % 3 == 0) {
      add_duplicate(out, fd, files[random() % files.size()]);
    } else {
      add_regular(out, fd, std::string(1, static_cast<char>('a' + random() % 3)));
      files.push_back(fd);
    }
  }
  return out;
}

TEST(FdPlan, AnyHistoryLeadsToTheSameTable) {
  std::mt19937 random(7);
  for (int i = 0; i < 20'000; ++i) {
    const auto first = random_table(random);
    const auto second = random_table(random);
    const auto by_way =
        apply(plan_fd_table(first, second), second, apply(plan_fd_table({}, first), first, {}));
    ASSERT_EQ(by_way, apply(plan_fd_table({}, second), second, {}));
    ASSERT_TRUE(plan_fd_table(second, second).empty());
  }
}

}  // namespace
}  // namespace godwit
