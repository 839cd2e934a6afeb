#include "common/model/status_page.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <thread>

#include "common/base/error.h"

namespace godwit {
namespace {

class StatusPageTest : public ::testing::Test {
 protected:
  ~StatusPageTest() override { std::filesystem::remove_all(folder_); }

  const std::filesystem::path folder_ = [] {
    std::string name = std::filesystem::temp_directory_path() / "godwit-status-XXXXXX";
    if (::mkdtemp(name.data()) == nullptr) throw_system("mkdtemp");
    return std::filesystem::path(name);
  }();
  const std::string path_ = folder_ / "page";
};

TEST_F(StatusPageTest, WhatWasToldIsRead) {
  EXPECT_FALSE(try_read_status(path_));
  {
    StatusPage page(path_);
    EXPECT_FALSE(try_read_status(path_)) << "nothing was told";
    MigrationStatus status;
    status.pid = 12;
    status.state = State::kPostCopy;
    status.post_copy.pages = 1000;
    status.post_copy.latencies.add(5000);
    page.tell(status);
    const auto read = try_read_status(path_);
    ASSERT_TRUE(read);
    EXPECT_EQ(read->pid, 12);
    EXPECT_EQ(read->state, State::kPostCopy);
    EXPECT_EQ(read->post_copy.pages, 1000U);
    EXPECT_EQ(read->post_copy.latencies.count(), 1U);
    EXPECT_EQ(read->pages_left, MigrationStatus::kUnknown);
    EXPECT_GT(read->told_ns, 0);
    const StatusPage another(path_);
    EXPECT_FALSE(try_read_status(path_)) << "in place of one that a killed agent left";
  }
  EXPECT_FALSE(std::filesystem::exists(path_));
}

TEST_F(StatusPageTest, AReaderSeesOneTelling) {
  StatusPage page(path_);
  std::atomic<bool> stop = false;
  std::thread writer([&] {
    MigrationStatus status;
    for (status.round = 1; !stop; ++status.round) {
      status.pages_left = status.round;
      status.post_copy.ns = status.round;
      page.tell(status);
    }
  });
  for (int i = 0; i < 2000; ++i) {
    const auto read = try_read_status(path_);
    if (!read) continue;
    EXPECT_EQ(read->pages_left, read->round);
    EXPECT_EQ(read->post_copy.ns, read->round);
  }
  stop = true;
  writer.join();
}

TEST_F(StatusPageTest, WhatIsNoStatusIsNotRead) {
  std::ofstream(path_) << "no status";
  EXPECT_FALSE(try_read_status(path_));
  std::ofstream(path_) << std::string(1 << 16, 'x');
  EXPECT_FALSE(try_read_status(path_));
  EXPECT_THROW(StatusPage(folder_ / "not" / "there"), Error);
}

}  // namespace
}  // namespace godwit
