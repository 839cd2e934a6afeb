// In the blackout most is taken for unchanged, and looked at once more while the destination works.
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/base/error.h"
#include "common/kernel/fd_test_process.h"
#include "common/kernel/pidfd.h"
#include "common/kernel/socket_options.h"
#include "common/remote/test_child.h"
#include "source-agent/capture/fd_compare.h"
#include "source-agent/capture/fd_table.h"
#include "source-agent/capture/tcp_sockets.h"
#include "source-agent/capture/threads.h"

namespace godwit {
namespace {

template <typename Body>
std::string story_of(Body body) {
  try {
    body();
  } catch (const Error& error) {
    return error.what();
  }
  return {};
}

// Descriptors from 3 on: a listener, the connection's two ends.
void connect_to_itself() {
  close(kTestPidfd);
  const int listener = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t bytes = sizeof address;
  auto* name = reinterpret_cast<sockaddr*>(&address);
  if (bind(listener, name, bytes) != 0 || listen(listener, 3) != 0) _exit(1);
  if (getsockname(listener, name, &bytes) != 0) _exit(1);
  const int client = socket(AF_INET, SOCK_STREAM, 0);
  const int on = 1;
  if (setsockopt(client, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on) != 0) _exit(1);
  if (connect(client, name, bytes) != 0 || accept(listener, nullptr, nullptr) < 0) _exit(1);
}

TEST(LastLook, SocketsTakenFromBeforeAreDescribedAsTheyAre) {
  TestProcess process(connect_to_itself);
  const UniqueFd pidfd = open_pidfd(process.pid());
  const UniqueFd client = copy_fd_of(pidfd, 4);
  RemoteTask task = RemoteTask::attach(process.pid());
  FdTableCapture capture(process.pid());
  capture.describe();
  set_socket_option(client.get(), {IPPROTO_TCP, TCP_NODELAY, int_option_value(1)});
  task.stop();
  capture.take_copies();
  const proto::FdTable last = capture.describe_final();
  EXPECT_EQ(capture.find_corrections().sockets_size(), 0);
  capture.give_back();
  FdTableCapture fresh(process.pid());
  fresh.take_copies();
  const proto::FdTable whole = fresh.describe_final();
  EXPECT_EQ(compare_fd_tables(whole, last), std::vector<std::string>());
}

// The connections of a table that is described in two steps, put back into it.
proto::FdTable describe_in_parts(FdTableCapture& capture) {
  std::map<std::uint32_t, proto::TcpSocket> streams;
  capture.describe_streams([&](const proto::Streams& part) {
    for (const proto::OpenFile& file : part.files()) streams[file.id()] = file.tcp_socket();
  });
  proto::FdTable table = capture.describe_final();
  for (proto::OpenFile& file : *table.mutable_files()) {
    if (file.in_streams()) *file.mutable_tcp_socket() = streams.at(file.id());
  }
  return table;
}

TEST(LastLook, ConnectionsDescribedAheadOfTheRest) {
  TestProcess process(connect_to_itself);
  const UniqueFd pidfd = open_pidfd(process.pid());
  const UniqueFd client = copy_fd_of(pidfd, 4);
  const UniqueFd server = copy_fd_of(pidfd, 5);
  RemoteTask task = RemoteTask::attach(process.pid());
  FdTableCapture capture(process.pid());
  ASSERT_EQ(shutdown(server.get(), SHUT_WR), 0);
  capture.describe();
  set_socket_option(client.get(), {IPPROTO_TCP, TCP_NODELAY, int_option_value(1)});
  set_socket_option(client.get(), {SOL_SOCKET, SO_RCVLOWAT, int_option_value(3)});
  ASSERT_EQ(send(client.get(), "word", 4, 0), 4);
  task.stop();
  capture.take_copies();
  const proto::FdTable last = describe_in_parts(capture);
  const proto::Corrections corrections = capture.confirm_streams();
  ASSERT_EQ(corrections.sockets_size(), 1) << corrections.DebugString();
  EXPECT_EQ(corrections.sockets(0).file(), 4U);
  ASSERT_EQ(corrections.sockets(0).options_size(), 2) << corrections.DebugString();
  EXPECT_EQ(corrections.sockets(0).options(0).name(), SO_RCVLOWAT);
  EXPECT_EQ(corrections.sockets(0).options(1).name(), TCP_NODELAY);
  EXPECT_EQ(corrections.sockets(0).options(1).value(), int_option_value(1));
  capture.give_back();
  FdTableCapture fresh(process.pid());
  fresh.take_copies();
  const proto::FdTable whole = fresh.describe_final();
  // Beside these two nothing differs.
  const auto differences = compare_fd_tables(whole, last);
  for (const std::string& difference : differences) {
    EXPECT_NE(difference.find("fd 4"), std::string::npos) << difference;
  }
  const auto stream_of = [](const proto::FdTable& table, std::uint32_t id) {
    for (const auto& file : table.files()) {
      if (file.id() == id) return file.tcp_socket().stream();
    }
    return proto::TcpStream();
  };
  for (const std::uint32_t id : {4U, 5U}) {
    proto::TcpStream ahead = stream_of(last, id);
    proto::TcpStream afresh = stream_of(whole, id);
    for (proto::TcpStream* each : {&ahead, &afresh}) {
      each->clear_timestamp();  // runs on
      each->clear_quiet();      // known of what was described before alone
    }
    EXPECT_EQ(ahead.DebugString(), afresh.DebugString());
  }
  EXPECT_EQ(stream_of(last, 5).receive().bytes(), "word");
}

TEST(LastLook, AConnectionThatBecameAnotherIsNotConfirmed) {
  TestProcess process(connect_to_itself);
  const UniqueFd pidfd = open_pidfd(process.pid());
  const UniqueFd client = copy_fd_of(pidfd, 4);
  RemoteTask task = RemoteTask::attach(process.pid());
  FdTableCapture capture(process.pid());
  capture.describe();
  sockaddr_in peer{};
  socklen_t bytes = sizeof peer;
  ASSERT_EQ(getpeername(client.get(), reinterpret_cast<sockaddr*>(&peer), &bytes), 0);
  sockaddr nobody{};
  nobody.sa_family = AF_UNSPEC;
  ASSERT_EQ(connect(client.get(), &nobody, sizeof nobody), 0);
  ASSERT_EQ(connect(client.get(), reinterpret_cast<sockaddr*>(&peer), bytes), 0);
  task.stop();
  capture.take_copies();
  describe_in_parts(capture);
  EXPECT_NE(story_of([&] { capture.confirm_streams(); }), "");
}

TEST(LastLook, WhatASocketGotMeanwhileIsFound) {
  TestProcess process(connect_to_itself);
  const UniqueFd pidfd = open_pidfd(process.pid());
  const UniqueFd client = copy_fd_of(pidfd, 4);
  RemoteTask task = RemoteTask::attach(process.pid());
  FdTableCapture capture(process.pid());
  capture.describe();
  set_socket_option(client.get(), {SOL_SOCKET, SO_PRIORITY, int_option_value(5)});
  set_socket_option(client.get(), {SOL_SOCKET, SO_KEEPALIVE, int_option_value(0)});
  task.stop();
  capture.take_copies();
  capture.describe_final();
  for (const SocketCopy& copy : capture.sockets()) {
    freeze_tcp_stream(copy.agent_fd, SocketBlock());  // as it is when corrections are looked for
  }
  const proto::Corrections corrections = capture.find_corrections();
  ASSERT_EQ(corrections.sockets_size(), 1) << corrections.DebugString();
  EXPECT_EQ(corrections.sockets(0).file(), 4u);
  ASSERT_EQ(corrections.sockets(0).options_size(), 2) << corrections.DebugString();
  EXPECT_EQ(corrections.sockets(0).options(0).name(), SO_PRIORITY);
  EXPECT_EQ(corrections.sockets(0).options(0).value(), int_option_value(5));
  EXPECT_EQ(corrections.sockets(0).options(1).name(), SO_KEEPALIVE);
  EXPECT_EQ(corrections.sockets(0).options(1).value(), int_option_value(0));
}

TEST(LastLook, ThreadsTakenFromBeforeAreDescribedAsTheyAre) {
  testing::Child child([]() -> int {
    for (;;) pause();
  });
  ASSERT_TRUE(testing::wait_asleep(child.pid()));
  RemoteTask task = RemoteTask::attach(child.pid());
  task.stop();
  CaptureContext context{task, child.pid()};
  const auto first = capture_threads(context);
  const KnownThreads known{{child.pid(), first.at(0)}};
  task.resume();
  ASSERT_TRUE(testing::wait_asleep(child.pid()));
  task.stop();
  const auto again = capture_threads_again(context, BlockedCallWatch(), known);
  const auto whole = capture_threads(context);
  ASSERT_EQ(again.size(), 1u);
  EXPECT_TRUE(again[0].as_before());
  EXPECT_EQ(again[0].tid(), whole.at(0).tid());
  EXPECT_EQ(first.at(0).DebugString(), whole.at(0).DebugString());
  const auto all = [](pid_t) { return true; };
  EXPECT_TRUE(find_changed_threads(context, known, all).empty());
  ASSERT_EQ(setpriority(PRIO_PROCESS, static_cast<id_t>(child.pid()), 5), 0);
  EXPECT_TRUE(find_changed_threads(context, known, [](pid_t) { return false; }).empty());
  const auto stories = find_changed_threads(context, known, all);
  ASSERT_EQ(stories.size(), 1u);
  EXPECT_NE(stories[0].find(std::to_string(child.pid())), std::string::npos) << stories[0];
  EXPECT_NE(stories[0].find("scheduling"), std::string::npos) << stories[0];
}

}  // namespace
}  // namespace godwit
