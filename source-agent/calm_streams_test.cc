// A connection whose two ends are this process's: one writes as much as goes, one reads slowly.
#include "source-agent/calm_streams.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <thread>

#include "common/base/clock.h"
#include "common/kernel/socket_options.h"
#include "common/kernel/tcp_repair.h"

namespace godwit {
namespace {

constexpr std::size_t kPieceBytes = 32 << 10;
constexpr std::uint32_t kMuchBytes = 1 << 20;

class CalmStreamsTest : public testing::Test {
 protected:
  void SetUp() override {
    const UniqueFd listener(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t bytes = sizeof address;
    auto* name = reinterpret_cast<sockaddr*>(&address);
    ASSERT_EQ(bind(listener.get(), name, bytes), 0);
    ASSERT_EQ(listen(listener.get(), 1), 0);
    ASSERT_EQ(getsockname(listener.get(), name, &bytes), 0);
    writer_.reset(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    ASSERT_EQ(connect(writer_.get(), name, bytes), 0);
    reader_.reset(accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
    ASSERT_TRUE(reader_.valid());
    // As much as many kernels take without being asked.
    const int buffer = 4 << 20;
    setsockopt(reader_.get(), SOL_SOCKET, SO_RCVBUF, &buffer, sizeof buffer);
    threads_.emplace_back([this] { write(); });
    threads_.emplace_back([this] { read(); });
    const std::int64_t end_ns = monotonic_ns() + 10'000'000'000;
    while (queued() < kMuchBytes && monotonic_ns() < end_ns) usleep(1000);
    ASSERT_GE(queued(), kMuchBytes);
  }
  void TearDown() override {
    stop_ = true;
    shutdown(writer_.get(), SHUT_RDWR);
    shutdown(reader_.get(), SHUT_RDWR);
    for (std::thread& thread : threads_) thread.join();
  }

  std::uint32_t queued() const {
    return tcp_queue_lengths(reader_.get()).receive + tcp_queue_lengths(writer_.get()).unsent;
  }
  proto::FdTable table() const {
    proto::FdTable table;
    for (const int fd : {reader_.get(), writer_.get()}) {
      proto::OpenFile& file = *table.add_files();
      file.set_id(static_cast<std::uint32_t>(fd));
      file.mutable_tcp_socket()->set_state(static_cast<int>(TcpState::kEstablished));
      file.mutable_tcp_socket()->set_inode(socket_inode(fd));
    }
    return table;
  }
  std::vector<SocketCopy> copies() const {
    std::vector<SocketCopy> copies;
    for (const int fd : {reader_.get(), writer_.get()}) {
      copies.push_back({fd, fd, socket_inode(fd), SocketKind::kTcp});
    }
    return copies;
  }
  std::vector<int> options() const {
    std::vector<int> values;
    for (const int fd : {reader_.get(), writer_.get()}) {
      values.push_back(int_socket_option(fd, IPPROTO_TCP, TCP_WINDOW_CLAMP));
      values.push_back(int_socket_option(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT));
    }
    return values;
  }

 private:
  void write() {
    const std::string piece(kPieceBytes, 'p');
    while (!stop_ && send(writer_.get(), piece.data(), piece.size(), MSG_NOSIGNAL) > 0) {
    }
  }
  void read() {
    std::string piece(kPieceBytes, 0);
    while (!stop_ && recv(reader_.get(), piece.data(), piece.size(), 0) > 0) usleep(200);
  }

  UniqueFd writer_;
  UniqueFd reader_;
  std::atomic<bool> stop_ = false;
  std::vector<std::thread> threads_;
};

TEST_F(CalmStreamsTest, QueuesEmptyWhileBothSidesGoOn) {
  const std::vector<int> before = options();
  CalmStreams calm(getpid(), table());
  EXPECT_GT(calm.keep_calm(), 0U);
  EXPECT_NE(options(), before);
  const std::int64_t end_ns = monotonic_ns() + 10'000'000'000;
  while (calm.keep_calm() > 0 && monotonic_ns() < end_ns) usleep(1000);
  EXPECT_EQ(calm.keep_calm(), 0U);
  EXPECT_LT(queued(), kMuchBytes);
  calm.put_back(copies());
  EXPECT_EQ(options(), before);
}

TEST_F(CalmStreamsTest, IsUndoneOnTheWayBack) {
  const std::vector<int> before = options();
  { CalmStreams calm(getpid(), table()); }
  EXPECT_EQ(options(), before);
}

TEST_F(CalmStreamsTest, WhatAKilledAgentLeftIsPutRight) {
  const std::vector<int> before = options();
  CalmStreams calm(getpid(), table());
  for (const SocketCopy& copy : copies()) release_calmed_stream(copy.agent_fd);
  EXPECT_GE(options()[0], before[0]);
  EXPECT_EQ(options()[1], 0);
}

TEST_F(CalmStreamsTest, LeavesOthersAlone) {
  proto::FdTable other = table();
  for (proto::OpenFile& file : *other.mutable_files()) file.mutable_tcp_socket()->set_inode(1);
  const std::vector<int> before = options();
  CalmStreams calm(getpid(), other);
  EXPECT_EQ(calm.keep_calm(), 0U);
  EXPECT_EQ(options(), before);
}

}  // namespace
}  // namespace godwit
