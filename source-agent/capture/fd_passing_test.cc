// Descriptors that can't be moved at one instant and can at the next.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/netlink.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <thread>

#include "common/kernel/fd_test_process.h"
#include "common/remote/remote_task.h"
#include "source-agent/capture/fd_table.h"

namespace godwit {
namespace {

constexpr int kFile = 3;  // the first descriptor of a TestProcess that is free

class FdPassing : public testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/godwit-fd-passing-XXXXXX";
    const int fd = mkstemp(name);
    ASSERT_GE(fd, 0);
    close(fd);
    path_ = name;
  }
  void TearDown() override {
    unlink(path_.c_str());
    unlink((path_ + "-journal").c_str());
  }

  int open_file() const { return open(path_.c_str(), O_RDWR); }

  std::string path_;
};

void lock(int fd, short type) {
  struct flock lock {};
  lock.l_type = type;
  lock.l_whence = SEEK_SET;
  if (fcntl(fd, F_SETLK, &lock) != 0) _exit(1);
}

std::string ids(const Findings& findings) {
  std::string out;
  for (const proto::Finding& finding : findings) out += (out.empty() ? "" : " ") + finding.id();
  return out;
}

bool has_descriptor(const proto::FdTable& table, int fd) {
  for (const proto::Descriptor& descriptor : table.descriptors()) {
    if (descriptor.fd() == fd) return true;
  }
  return false;
}

void close_pidfd() { close(kTestPidfd); }  // which can't be moved

TEST_F(FdPassing, WhatComesAndGoesIsNotRefused) {
  TestProcess process([&] {
    close_pidfd();
    std::thread([file = open_file()] {
      for (;;) {
        lock(file, F_WRLCK);
        const int status = open("/proc/self/status", O_RDONLY);
        usleep(15'000);
        close(status);
        lock(file, F_UNLCK);
        usleep(15'000);
      }
    }).detach();
  });
  Findings findings;
  preflight_fd_table(process.pid(), findings);
  EXPECT_EQ(ids(findings), "");
}

TEST_F(FdPassing, WhatLastsIs) {
  TestProcess process([&] {
    close_pidfd();
    lock(open_file(), F_WRLCK);
    open("/proc/self/status", O_RDONLY);
  });
  Findings findings;
  preflight_fd_table(process.pid(), findings);
  EXPECT_EQ(ids(findings), "fd-locked fd-kernel-file");
}

TEST_F(FdPassing, AShapeLeavesItOutAndTheLastDescriptionDoesNot) {
  TestProcess process([&] {
    close_pidfd();
    lock(open_file(), F_WRLCK);
    dup(kFile);
    open(path_.c_str(), O_RDONLY);  // of another open file, and so locked as well
    open((path_ + "-journal").c_str(), O_RDWR | O_CREAT, 0600);
    open("/dev/null", O_RDWR);
  });
  FdTableCapture capture(process.pid());
  const proto::FdTable shape = capture.describe();
  EXPECT_FALSE(has_descriptor(shape, kFile));
  EXPECT_FALSE(has_descriptor(shape, kFile + 1));
  EXPECT_FALSE(has_descriptor(shape, kFile + 3));
  EXPECT_TRUE(has_descriptor(shape, kFile + 4));
  RemoteTask task = RemoteTask::attach(process.pid());
  task.stop();
  EXPECT_THROW(capture.describe_stopped(&task), Refused);
}

// Two to a listener whose backlog holds one: the last is not answered.
void connect_in_vain() {
  const int listener = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t bytes = sizeof address;
  auto* name = reinterpret_cast<sockaddr*>(&address);
  if (bind(listener, name, bytes) != 0 || listen(listener, 0) != 0) _exit(1);
  if (getsockname(listener, name, &bytes) != 0) _exit(1);
  for (int i = 0; i < 2; ++i) {
    const int client = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (connect(client, name, bytes) != 0 && errno != EINPROGRESS) _exit(1);
  }
}

TEST_F(FdPassing, IsFoundRightBehindTheStop) {
  TestProcess process(
      [&] {
        close_pidfd();
        open_file();
      },
      [] {
        lock(kFile, F_WRLCK);
        open("/proc/self/status", O_RDONLY);
        socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE);
        int ends[2];
        if (pipe(ends) != 0) _exit(1);
        connect_in_vain();
      });
  FdTableCapture capture(process.pid());
  capture.describe();
  EXPECT_EQ(ids(capture.find_passing_running()), "");
  process.act();
  constexpr const char* kPassing = "fd-locked fd-kernel-file fd-netlink-socket tcp-connecting";
  EXPECT_EQ(ids(capture.find_passing_running()), kPassing);
  RemoteTask task = RemoteTask::attach(process.pid());
  task.stop();
  capture.take_copies();
  EXPECT_EQ(ids(capture.find_passing()), kPassing);
  capture.give_back();
}

}  // namespace
}  // namespace godwit
