// In the blackout most is taken for unchanged, and looked at once more while the destination works.
#include <fcntl.h>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <csignal>
#include <map>
#include <set>
#include <span>
#include <thread>

#include "common/base/error.h"
#include "common/kernel/fd_test_process.h"
#include "common/kernel/pidfd.h"
#include "common/kernel/proc_status.h"
#include "common/kernel/socket_options.h"
#include "common/kernel/tcp_repair.h"
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

struct Listener {
  int fd = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};

  // Of a child: ends it when something fails.
  Listener() {
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t bytes = sizeof address;
    if (bind(fd, name(), bytes) != 0 || listen(fd, 3) != 0) _exit(1);
    if (getsockname(fd, name(), &bytes) != 0) _exit(1);
  }
  sockaddr* name() { return reinterpret_cast<sockaddr*>(&address); }
};

// Descriptors from 3 on: a listener, the connection's two ends.
void connect_to_itself() {
  close(kTestPidfd);
  Listener there;
  const int client = socket(AF_INET, SOCK_STREAM, 0);
  const int on = 1;
  if (setsockopt(client, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on) != 0) _exit(1);
  if (connect(client, there.name(), sizeof there.address) != 0 ||
      accept(there.fd, nullptr, nullptr) < 0)
    _exit(1);
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

constexpr int kPairs = 60;

// Descriptors from 3 on: a listener, then both ends of each connection, client and server.
void connect_often_to_itself() {
  close(kTestPidfd);
  Listener there;
  for (int pair = 0; pair < kPairs; ++pair) {
    const int client = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(client, there.name(), sizeof there.address) != 0) _exit(1);
    if (accept(there.fd, nullptr, nullptr) < 0) _exit(1);
  }
}

// By file: those that look_at_streams() found, and those that describe_streams() named of them or
// sent.
struct ManyStreams {
  explicit ManyStreams(FdTableCapture& capture, RemoteTask& task) {
    proto::Streams found;
    const std::vector<int> fds = capture.streams_to_look_at();
    task.stop();
    capture.look_at_streams(fds, found);
    task.resume();
    EXPECT_TRUE(found.ahead());
    for (const proto::OpenFile& file : found.files()) ahead[file.id()] = file.tcp_socket();
  }
  void describe(FdTableCapture& capture) {
    capture.describe_streams([&](const proto::Streams& part) {
      for (const std::uint32_t file : part.as_ahead()) named.insert(file);
      if (part.as_ahead_size() > 0) passed_ms = part.passed_ms();
      for (const proto::OpenFile& file : part.files()) sent[file.id()] = file.tcp_socket();
    });
  }

  std::map<std::uint32_t, proto::TcpSocket> ahead;
  std::set<std::uint32_t> named;
  std::map<std::uint32_t, proto::TcpSocket> sent;
  std::uint32_t passed_ms = 0;
};

TEST(LastLook, ConnectionsThatStandStillAreOnlyNamed) {
  TestProcess process(connect_often_to_itself);
  const UniqueFd pidfd = open_pidfd(process.pid());
  RemoteTask task = RemoteTask::attach(process.pid());
  FdTableCapture capture(process.pid());
  capture.describe();
  ManyStreams streams(capture, task);
  EXPECT_EQ(streams.ahead.size(), 2U * kPairs);
  const UniqueFd moves = copy_fd_of(pidfd, 4);
  ASSERT_EQ(send(moves.get(), "word", 4, 0), 4);
  const UniqueFd shut = copy_fd_of(pidfd, 8);
  ASSERT_EQ(shutdown(shut.get(), SHUT_RD), 0);
  const UniqueFd set = copy_fd_of(pidfd, 10);
  set_socket_option(set.get(), {IPPROTO_TCP, TCP_NODELAY, int_option_value(1)});
  set_socket_option(set.get(), {SOL_SOCKET, SO_REUSEADDR, int_option_value(1)});
  set_socket_option(set.get(), {SOL_SOCKET, SO_SNDBUF, int_option_value(100'000)});
  task.stop();
  capture.take_copies();
  const std::uint32_t now = tcp_timestamp(set.get());
  streams.describe(capture);
  const std::uint32_t later = tcp_timestamp(set.get());
  EXPECT_EQ(streams.named.size(), 2U * kPairs - 3);
  ASSERT_EQ(streams.sent.size(), 3U);
  for (const std::uint32_t file : {4U, 5U, 8U}) EXPECT_TRUE(streams.sent.contains(file)) << file;
  EXPECT_EQ(streams.sent[5].stream().receive().bytes(), "word");
  // It does not go back, and counts in the same unit.
  const std::uint32_t told = streams.ahead.at(10).stream().timestamp() + streams.passed_ms;
  EXPECT_GE(static_cast<std::int32_t>(told - now), 0);
  EXPECT_LE(static_cast<std::int32_t>(told - later), 5);
  EXPECT_EQ(told % 2, now % 2);
  const proto::FdTable table = capture.describe_final();
  const proto::Corrections early = capture.confirm_streams();
  ASSERT_EQ(early.sockets_size(), 1) << early.DebugString();
  EXPECT_EQ(early.sockets(0).file(), 10U);
  EXPECT_EQ(early.sockets(0).options_size(), 2) << early.DebugString();
  const proto::Corrections late = capture.find_corrections();
  ASSERT_EQ(late.sockets_size(), 1) << late.DebugString();
  ASSERT_EQ(late.sockets(0).options_size(), 2) << late.DebugString();  // with SO_BUF_LOCK
  EXPECT_EQ(late.sockets(0).options(1).name(), SO_SNDBUF) << late.DebugString();
  // What was named is what is found afresh.
  capture.give_back();
  FdTableCapture fresh(process.pid());
  fresh.take_copies();
  const proto::FdTable whole = fresh.describe_final();
  for (const proto::OpenFile& file : whole.files()) {
    if (!streams.named.contains(file.id())) continue;
    proto::TcpStream told_of = streams.ahead.at(file.id()).stream();
    proto::TcpStream found = file.tcp_socket().stream();
    for (proto::TcpStream* each : {&told_of, &found}) {
      each->clear_timestamp();
      each->clear_quiet();
    }
    EXPECT_EQ(told_of.DebugString(), found.DebugString()) << file.id();
  }
}

TEST(LastLook, AnOwnerThatAConnectionGotIsNotOverlooked) {
  TestProcess process(connect_often_to_itself);
  const UniqueFd pidfd = open_pidfd(process.pid());
  const UniqueFd owned = copy_fd_of(pidfd, 6);
  RemoteTask task = RemoteTask::attach(process.pid());
  FdTableCapture capture(process.pid());
  capture.describe();
  ManyStreams streams(capture, task);
  ASSERT_EQ(fcntl(owned.get(), F_SETOWN, process.pid()), 0);
  task.stop();
  capture.take_copies();
  streams.describe(capture);
  EXPECT_TRUE(streams.named.contains(6));
  const std::string story = story_of([&] { capture.confirm_streams(); });
  EXPECT_NE(story.find("fd 6"), std::string::npos) << story;
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

// A process with a thread that sleeps and one that is told what to do.
class TwoThreads {
 public:
  enum Order : char { kNothing, kStack, kNameOfLeader };

  TwoThreads()
      : orders_(make_pipe()), child_([this]() -> int {
          std::thread sleeper([this] { obey(); });
          for (;;) pause();
        }) {
    while (list_threads(pid()).size() < 2) usleep(100);
    other_ = list_threads(pid()).at(1);
    EXPECT_TRUE(testing::wait_asleep(pid()));
    EXPECT_TRUE(testing::wait_asleep(other_));
  }

  pid_t pid() const { return child_.pid(); }
  pid_t other() const { return other_; }
  void tell(Order order) {
    ASSERT_EQ(write(orders_.second.get(), &order, 1), 1);
    usleep(20'000);
    ASSERT_TRUE(testing::wait_asleep(other_));
  }

 private:
  static std::pair<UniqueFd, UniqueFd> make_pipe() {
    int ends[2];
    EXPECT_EQ(pipe2(ends, O_CLOEXEC), 0);
    return {UniqueFd(ends[0]), UniqueFd(ends[1])};
  }

  // The same registers in the same call before and after.
  void obey() {
    static char stack_memory[16384];
    char order = kNothing;
    for (;;) {
      if (read(orders_.first.get(), &order, 1) != 1) continue;
      const stack_t stack{.ss_sp = stack_memory, .ss_flags = 0, .ss_size = sizeof stack_memory};
      if (order == kStack) sigaltstack(&stack, nullptr);
      if (order == kNameOfLeader) {
        write_file(fmt::format("/proc/self/task/{}/comm", getpid()), "another");
      }
    }
  }

  std::pair<UniqueFd, UniqueFd> orders_;
  testing::Child child_;
  pid_t other_ = 0;
};

// What a migration does: a look at the threads one by one, the last stop, the confirmation.
class Confirmation {
 public:
  explicit Confirmation(pid_t pid) : task_(RemoteTask::attach(pid)), context_{task_, pid} {
    task_.stop();
    capture_threads(context_);
    task_.resume();
    for (const pid_t tid : list_threads(pid)) {
      testing::wait_asleep(tid);
      task_.stop_some(std::span(&tid, 1));
      EXPECT_EQ(task_.threads().size(), 1u);
      look_at_threads(context_, BlockedCallWatch(), known_);
      task_.resume();
      EXPECT_TRUE(testing::wait_asleep(tid));
    }
  }

  std::vector<proto::Thread> stop() {
    for (auto& [tid, known] : known_) known.watch.follow(0);
    task_.stop();
    return capture_threads_again(context_, BlockedCallWatch(), known_);
  }
  std::string confirm() {
    SyscallBatch batch;
    const ThreadQuery query(batch);
    const auto leader = read_answer(query, task_.run(batch), task_.leader());
    std::set<pid_t> asked;
    for (const auto& [tid, known] : known_) {
      if (known.watch.may_have_changed()) asked.insert(tid);
    }
    return story_of([&] { confirm_threads(context_, known_, asked, leader); });
  }
  const KnownThreads& known() const { return known_; }
  std::vector<proto::Thread> whole() { return capture_threads(context_); }

 private:
  RemoteTask task_;
  CaptureContext context_;
  KnownThreads known_;
};

TEST(LastLook, ThreadsThatStandStillAreTakenFromBefore) {
  TwoThreads process;
  Confirmation last(process.pid());
  const auto again = last.stop();
  ASSERT_EQ(again.size(), 2u);
  ASSERT_EQ(last.known().size(), 2u);
  EXPECT_FALSE(last.known().at(process.other()).watch.may_have_changed());
  EXPECT_EQ(last.confirm(), "");
  const auto whole = last.whole();
  for (const std::size_t i : {0u, 1u}) {
    EXPECT_TRUE(again[i].as_before());
    const proto::Thread& known = last.known().at(whole.at(i).host_tid()).thread;
    EXPECT_EQ(known.DebugString(), whole.at(i).DebugString());
  }
}

TEST(LastLook, AThreadThatRanIsAskedAgain) {
  TwoThreads process;
  Confirmation last(process.pid());
  process.tell(TwoThreads::kNothing);
  last.stop();
  EXPECT_TRUE(last.known().at(process.other()).watch.may_have_changed());
  EXPECT_EQ(last.confirm(), "");
}

TEST(LastLook, WhatAThreadChangedOfItsOwnIsFound) {
  TwoThreads process;
  Confirmation last(process.pid());
  process.tell(TwoThreads::kStack);
  last.stop();
  const std::string story = last.confirm();
  EXPECT_NE(story.find(std::to_string(process.other())), std::string::npos) << story;
  EXPECT_NE(story.find("alternate stack"), std::string::npos) << story;
}

TEST(LastLook, WhatOthersChangedOfASleepingThreadIsFound) {
  TwoThreads process;
  Confirmation last(process.pid());
  ASSERT_EQ(setpriority(PRIO_PROCESS, static_cast<id_t>(process.other()), 5), 0);
  const auto again = last.stop();
  EXPECT_TRUE(again.at(1).as_before());
  const std::string story = last.confirm();
  EXPECT_NE(story.find("scheduling"), std::string::npos) << story;
}

TEST(LastLook, ANameThatAnotherThreadGaveIsFound) {
  TwoThreads process;
  Confirmation last(process.pid());
  process.tell(TwoThreads::kNameOfLeader);
  const auto again = last.stop();
  EXPECT_TRUE(again.at(0).as_before());
  EXPECT_TRUE(last.known().at(process.pid()).watch.may_have_changed());
  const std::string story = last.confirm();
  EXPECT_NE(story.find("name"), std::string::npos) << story;
}

}  // namespace
}  // namespace godwit
