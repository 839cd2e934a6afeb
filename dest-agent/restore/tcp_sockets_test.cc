// Connections moved between two network namespaces while a third one is the client.
#include "dest-agent/restore/tcp_sockets.h"

#include <gtest/gtest.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>

#include <chrono>
#include <map>
#include <thread>

#include "common/base/clock.h"
#include "common/kernel/socket_options.h"
#include "common/kernel/tcp_repair.h"
#include "common/network/addresses.h"
#include "common/network/network_fixture.h"
#include "common/network/socket_address.h"
#include "source-agent/capture/tcp_sockets.h"

namespace godwit {
namespace {

SocketAddress at(const std::string& text, std::uint16_t port) {
  return {*IpAddress::from_text(text), port};
}

struct Connection {
  UniqueFd server;
  UniqueFd client;
};

std::string read_bytes(int fd, std::size_t bytes) {
  std::string text(bytes, '\0');
  std::size_t done = 0;
  while (done < bytes) {
    pollfd entry{fd, POLLIN, 0};
    if (poll(&entry, 1, 3000) <= 0) fail("nothing to read after {} of {} bytes", done, bytes);
    const ssize_t got = recv(fd, text.data() + done, bytes - done, 0);
    if (got < 0) throw_system("recv");
    if (got == 0) fail("end of stream after {} of {} bytes", done, bytes);
    done += static_cast<std::size_t>(got);
  }
  return text;
}

void write_bytes(int fd, const std::string& bytes) {
  if (send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL) != static_cast<ssize_t>(bytes.size())) {
    throw_system("send");
  }
}

bool at_end(int fd) {
  pollfd entry{fd, POLLIN, 0};
  char byte = 0;
  return poll(&entry, 1, 3000) == 1 && recv(fd, &byte, 1, 0) == 0;
}

void settle() { std::this_thread::sleep_for(std::chrono::milliseconds(30)); }

class TcpMove : public testing::TestWithParam<const char*> {
 protected:
  // A service bound to the IPv6 wildcard sees IPv4 clients by mapped addresses.
  Connection connect_pair(bool mapped = false) {
    const SocketAddress service = at(GetParam(), 6379);
    const SocketAddress bound = mapped ? at("::", 6379) : service;
    Connection pair;
    network_.in("source", [&] {
      listener_ = UniqueFd(socket(bound.family(), SOCK_STREAM | SOCK_CLOEXEC, 0));
      ASSERT_EQ(bind(listener_.get(), bound.get(), bound.size()), 0);
      ASSERT_EQ(listen(listener_.get(), 100), 0);
    });
    network_.in("client", [&] {
      pair.client = UniqueFd(socket(service.family(), SOCK_STREAM | SOCK_CLOEXEC, 0));
      ASSERT_EQ(connect(pair.client.get(), service.get(), service.size()), 0);
    });
    pair.server = UniqueFd(accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
    return pair;
  }

  std::string id() const { return fmt::format("{:x}tcp", static_cast<unsigned>(getpid())); }

  // What the agents do, without holding packets: nothing is on its way in these tests.
  UniqueFd move(UniqueFd server, const TcpFacts* before_hold = nullptr) {
    proto::TcpSocket description;
    network_.in("source", [&] {
      description = capture_tcp_socket(server.get());
      if (has_tcp_stream(static_cast<TcpState>(description.state()))) {
        capture_tcp_stream(server.get(), description, before_hold);
      }
      freeze_tcp_stream(server.get(), SocketBlock());
      if (listener_.valid()) freeze_tcp_stream(listener_.get(), SocketBlock());
    });
    last_ = description;
    UniqueFd restored;
    network_.in("dest", [&] { restored = prepare_tcp_socket(description); });
    server.reset();
    const IpAddress address = *IpAddress::from_text(GetParam());
    std::vector<proto::MovedAddress> addresses;
    network_.in("source", [&] {
      addresses = describe_addresses({&address, 1});
      OutgoingAddresses outgoing(id());
      outgoing.release(addresses);
      outgoing.finish();
    });
    network_.in("dest", [&] {
      IncomingAddresses incoming(id());
      incoming.add_silently(addresses, 60);
      PacketReplay replay;
      finish_tcp_socket(restored.get(), description);
      incoming.announce();
      incoming.keep();
      release_tcp_socket(restored.get(), description, replay);
    });
    return restored;
  }

  // Keeps the given side from hearing the other, so that what is sent stays unacknowledged.
  void deafen(const std::string& host) {
    network_.run(host,
                 "nft 'add table inet deaf; add chain inet deaf in { type filter hook input "
                 "priority -400; policy drop; }'");
  }
  void hear(const std::string& host) { network_.run(host, "nft delete table inet deaf"); }

  static TcpState state(const UniqueFd& fd) { return tcp_facts(fd.get()).state; }

  // The moved socket's state settles with the peer's answers.
  static void expect_state(const UniqueFd& fd, TcpState wanted) {
    for (int waited = 0; waited < 100 && state(fd) != wanted; ++waited) {
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    EXPECT_EQ(tcp_state_name(state(fd)), tcp_state_name(wanted));
  }

  TestNetwork network_;
  UniqueFd listener_;
  proto::TcpSocket last_;
};

TEST_P(TcpMove, EstablishedGoesOnInBothDirections) {
  Connection pair = connect_pair();
  write_bytes(pair.client.get(), "hello");
  EXPECT_EQ(read_bytes(pair.server.get(), 5), "hello");
  write_bytes(pair.client.get(), "unread by the server");
  write_bytes(pair.server.get(), "unread by the client");
  settle();
  const int nodelay = 1;
  setsockopt(pair.server.get(), IPPROTO_TCP, TCP_NODELAY, &nodelay, sizeof nodelay);
  const UniqueFd moved = move(std::move(pair.server));
  EXPECT_EQ(last_.stream().receive().bytes(), "unread by the server");
  EXPECT_EQ(read_bytes(moved.get(), 20), "unread by the server");
  EXPECT_EQ(read_bytes(pair.client.get(), 20), "unread by the client");
  write_bytes(moved.get(), "from the new host");
  EXPECT_EQ(read_bytes(pair.client.get(), 17), "from the new host");
  const std::string large(300000, 'x');
  std::thread writer([&] { write_bytes(pair.client.get(), large); });
  EXPECT_EQ(read_bytes(moved.get(), large.size()), large);
  writer.join();
  EXPECT_EQ(int_socket_option(moved.get(), IPPROTO_TCP, TCP_NODELAY), 1);
  EXPECT_EQ(network_.counter("client", "TcpExt", "TCPTimeouts"), 0);
  shutdown(moved.get(), SHUT_WR);
  EXPECT_TRUE(at_end(pair.client.get()));
}

TEST_P(TcpMove, UnacknowledgedAndUnsentBytesArrive) {
  Connection pair = connect_pair();
  deafen("client");
  std::string data;
  for (int number = 0; number < 12000; ++number) data += fmt::format("{} ", number);
  write_bytes(pair.server.get(), data);  // more than the first window
  const UniqueFd moved = [&] {
    settle();
    hear("client");
    return move(std::move(pair.server));
  }();
  EXPECT_GT(last_.stream().unsent_bytes(), 0U);
  EXPECT_GT(last_.stream().send().bytes().size(), last_.stream().unsent_bytes());
  EXPECT_EQ(read_bytes(pair.client.get(), data.size()), data);
}

TEST_P(TcpMove, FullReceiveBufferAndClosedWindowGoOn) {
  Connection pair = connect_pair();
  std::string data;
  for (int number = 0; number < 2000000; ++number) data += fmt::format("{} ", number);
  std::thread writer([&] { write_bytes(pair.client.get(), data); });
  std::this_thread::sleep_for(std::chrono::milliseconds(300));
  const UniqueFd moved = move(std::move(pair.server));
  EXPECT_GT(last_.stream().receive().bytes().size(), 100000U);
  EXPECT_EQ(read_bytes(moved.get(), data.size()) == data, true);
  writer.join();
}

TEST_P(TcpMove, PeerHasClosed) {
  Connection pair = connect_pair();
  write_bytes(pair.client.get(), "last words");
  shutdown(pair.client.get(), SHUT_WR);
  settle();
  ASSERT_EQ(state(pair.server), TcpState::kCloseWait);
  const UniqueFd moved = move(std::move(pair.server));
  EXPECT_EQ(state(moved), TcpState::kCloseWait);
  EXPECT_EQ(read_bytes(moved.get(), 10), "last words");
  EXPECT_TRUE(at_end(moved.get()));
  write_bytes(moved.get(), "answer");
  EXPECT_EQ(read_bytes(pair.client.get(), 6), "answer");
  shutdown(moved.get(), SHUT_WR);
  EXPECT_TRUE(at_end(pair.client.get()));
  expect_state(moved, TcpState::kClose);
}

TEST_P(TcpMove, WeHaveClosedAndThePeerKnows) {
  Connection pair = connect_pair();
  shutdown(pair.server.get(), SHUT_WR);
  settle();
  ASSERT_EQ(state(pair.server), TcpState::kFinWait2);
  const UniqueFd moved = move(std::move(pair.server));
  expect_state(moved, TcpState::kFinWait2);
  EXPECT_TRUE(at_end(pair.client.get()));
  write_bytes(pair.client.get(), "still talking");
  EXPECT_EQ(read_bytes(moved.get(), 13), "still talking");
  pair.client.reset();
  EXPECT_TRUE(at_end(moved.get()));
}

TEST_P(TcpMove, OurCloseIsOnItsWay) {
  Connection pair = connect_pair();
  deafen("client");
  write_bytes(pair.server.get(), "data before the end");
  shutdown(pair.server.get(), SHUT_WR);
  settle();
  ASSERT_EQ(state(pair.server), TcpState::kFinWait1);
  hear("client");
  const UniqueFd moved = move(std::move(pair.server));
  EXPECT_EQ(read_bytes(pair.client.get(), 19), "data before the end");
  EXPECT_TRUE(at_end(pair.client.get()));
  expect_state(moved, TcpState::kFinWait2);
}

TEST_P(TcpMove, BothHaveClosedOurEndIsOnItsWay) {
  Connection pair = connect_pair();
  shutdown(pair.client.get(), SHUT_WR);
  settle();
  deafen("client");
  write_bytes(pair.server.get(), "the end");
  shutdown(pair.server.get(), SHUT_WR);
  settle();
  ASSERT_EQ(state(pair.server), TcpState::kLastAck);
  hear("client");
  const UniqueFd moved = move(std::move(pair.server));
  EXPECT_EQ(read_bytes(pair.client.get(), 7), "the end");
  EXPECT_TRUE(at_end(pair.client.get()));
  expect_state(moved, TcpState::kClose);
}

TEST_P(TcpMove, BothCloseAtOnce) {
  Connection pair = connect_pair();
  deafen("client");
  shutdown(pair.server.get(), SHUT_WR);
  settle();
  shutdown(pair.client.get(), SHUT_WR);
  settle();
  ASSERT_EQ(state(pair.server), TcpState::kClosing);
  hear("client");
  const UniqueFd moved = move(std::move(pair.server));
  EXPECT_TRUE(at_end(moved.get()));
  EXPECT_TRUE(at_end(pair.client.get()));
  expect_state(moved, TcpState::kClose);
}

TEST_P(TcpMove, ConnectionThatWasReset) {
  Connection pair = connect_pair();
  write_bytes(pair.client.get(), "unread");
  const linger hard{1, 0};
  setsockopt(pair.client.get(), SOL_SOCKET, SO_LINGER, &hard, sizeof hard);
  pair.client.reset();
  settle();
  ASSERT_EQ(state(pair.server), TcpState::kClose);
  const UniqueFd moved = move(std::move(pair.server));
  EXPECT_TRUE(last_.has_dead());
  EXPECT_EQ(state(moved), TcpState::kClose);
  EXPECT_EQ(read_bytes(moved.get(), 6), "unread");
  char byte = 0;
  EXPECT_EQ(recv(moved.get(), &byte, 1, 0), -1);
  EXPECT_EQ(errno, ECONNRESET);
  EXPECT_TRUE(at_end(moved.get()));
}

TEST_P(TcpMove, ConnectionThatIsOver) {
  Connection pair = connect_pair();
  write_bytes(pair.client.get(), "unread");
  shutdown(pair.server.get(), SHUT_WR);
  pair.client.reset();
  settle();
  const UniqueFd moved = move(std::move(pair.server));
  ASSERT_TRUE(last_.has_dead());
  EXPECT_EQ(read_bytes(moved.get(), 6), "unread");
  EXPECT_TRUE(at_end(moved.get()));
}

TEST_P(TcpMove, MappedAddressesStayMapped) {
  Connection pair = connect_pair(true);
  const UniqueFd moved = move(std::move(pair.server));
  const bool v6 = std::string(GetParam()).find(':') != std::string::npos;
  EXPECT_EQ(SocketAddress::remote_of(moved.get())->ip().text(),
            v6 ? "fd77::3" : "::ffff:10.77.0.3");
  write_bytes(moved.get(), "hello");
  EXPECT_EQ(read_bytes(pair.client.get(), 5), "hello");
}

TEST_P(TcpMove, WhatWasPreparedAheadStands) {
  const Connection pair = connect_pair();
  network_.in("source", [&] {
    const proto::TcpSocket ahead = capture_tcp_socket(pair.server.get());
    proto::TcpSocket last = capture_tcp_socket_again(pair.server.get(), ahead);
    EXPECT_EQ(ahead.SerializeAsString(), last.SerializeAsString());
    capture_tcp_stream(pair.server.get(), last);
    EXPECT_TRUE(same_prepared(ahead, last));
    set_socket_option(pair.server.get(), {SOL_SOCKET, SO_PRIORITY, int_option_value(3)});
    EXPECT_FALSE(same_prepared(ahead, capture_tcp_socket(pair.server.get())));
  });
}

// Nothing is said where nobody waits: the next data finds everything in its place.
TEST_P(TcpMove, AQuietConnectionMovesInSilence) {
  Connection pair = connect_pair();
  network_.in("source", [&] {
    const TcpFacts before = tcp_facts(pair.server.get());
    proto::TcpSocket socket = capture_tcp_socket(pair.server.get());
    capture_tcp_stream(pair.server.get(), socket, &before);
    EXPECT_TRUE(socket.stream().quiet());
    write_bytes(pair.client.get(), "x");
    settle();
    capture_tcp_stream(pair.server.get(), socket, &before);
    EXPECT_FALSE(socket.stream().quiet());
    capture_tcp_stream(pair.server.get(), socket);
    EXPECT_FALSE(socket.stream().quiet());
  });
  EXPECT_EQ(read_bytes(pair.server.get(), 1), "x");
  settle();
  write_bytes(pair.server.get(), "unread by the client");
  settle();
  const TcpFacts before = tcp_facts(pair.server.get());
  const std::uint32_t heard = tcp_facts(pair.client.get()).segments_in;
  const UniqueFd moved = move(std::move(pair.server), &before);
  EXPECT_TRUE(last_.stream().quiet());
  settle();
  EXPECT_EQ(tcp_facts(pair.client.get()).segments_in, heard);
  EXPECT_EQ(read_bytes(pair.client.get(), 20), "unread by the client");
  write_bytes(pair.client.get(), "to the new host");
  EXPECT_EQ(read_bytes(moved.get(), 15), "to the new host");
  write_bytes(moved.get(), "from the new host");
  EXPECT_EQ(read_bytes(pair.client.get(), 17), "from the new host");
  EXPECT_EQ(network_.counter("client", "TcpExt", "TCPTimeouts"), 0);
}

TEST_P(TcpMove, OptionsAreKept) {
  Connection pair = connect_pair();
  const auto set = [&](int level, int name, int value) {
    ASSERT_EQ(setsockopt(pair.server.get(), level, name, &value, sizeof value), 0);
  };
  set(SOL_SOCKET, SO_KEEPALIVE, 1);
  set(IPPROTO_TCP, TCP_KEEPIDLE, 77);
  set(IPPROTO_TCP, TCP_USER_TIMEOUT, 4321);
  set(SOL_SOCKET, SO_SNDBUF, 100000);
  set(SOL_SOCKET, SO_REUSEADDR, 1);
  set(SOL_SOCKET, SO_PRIORITY, 3);
  const linger lingering{1, 7};
  setsockopt(pair.server.get(), SOL_SOCKET, SO_LINGER, &lingering, sizeof lingering);
  const UniqueFd moved = move(std::move(pair.server));
  network_.in("dest", [&] {
    proto::TcpSocket again = capture_tcp_socket(moved.get());
    std::map<std::string, std::string> before;
    std::map<std::string, std::string> after;
    for (const auto& option : last_.options()) {
      before[socket_option_name(option.level(), option.name())] = option.value();
    }
    for (const auto& option : again.options()) {
      after[socket_option_name(option.level(), option.name())] = option.value();
    }
    EXPECT_EQ(before, after);
  });
}

TEST_P(TcpMove, ListenerMovesNextToItsConnections) {
  Connection pair = connect_pair();
  proto::TcpSocket listener;
  proto::TcpSocket connection;
  network_.in("source", [&] {
    listener = capture_tcp_socket(listener_.get());
    connection = capture_tcp_socket(pair.server.get());
    capture_tcp_stream(pair.server.get(), connection);
  });
  EXPECT_EQ(listener.backlog(), 100);
  network_.in("dest", [&] {
    for (const bool listener_first : {true, false}) {
      UniqueFd first = prepare_tcp_socket(listener_first ? listener : connection);
      UniqueFd second = prepare_tcp_socket(listener_first ? connection : listener);
      finish_tcp_socket(first.get(), listener_first ? listener : connection);
      finish_tcp_socket(second.get(), listener_first ? connection : listener);
      EXPECT_EQ(state(listener_first ? first : second), TcpState::kListen);
      EXPECT_EQ(state(listener_first ? second : first), TcpState::kEstablished);
      // Another program's listener on the port is noticed, not shadowed.
      EXPECT_THROW(
          {
            const UniqueFd third = prepare_tcp_socket(listener);
            finish_tcp_socket(third.get(), listener);
          },
          Error);
    }
  });
}

TEST_P(TcpMove, CapturedConnectionGoesOnAtTheSource) {
  Connection pair = connect_pair();
  network_.in("source", [&] {
    proto::TcpSocket description = capture_tcp_socket(pair.server.get());
    write_bytes(pair.client.get(), "one");
    settle();
    capture_tcp_stream(pair.server.get(), description);
    EXPECT_FALSE(tcp_stream_changed(pair.server.get(), description));
    write_bytes(pair.client.get(), "two");
    settle();
    EXPECT_TRUE(tcp_stream_changed(pair.server.get(), description));
    freeze_tcp_stream(pair.server.get(), SocketBlock());
    write_bytes(pair.client.get(), "lost, and sent again");
    settle();
    PacketReplay replay;
    thaw_tcp_stream(pair.server.get(), description, replay);
    EXPECT_EQ(read_bytes(pair.server.get(), 26), "onetwolost, and sent again");
    write_bytes(pair.server.get(), "answer");
    EXPECT_EQ(read_bytes(pair.client.get(), 6), "answer");
  });
}

TEST_P(TcpMove, NothingLeavesBeforeTheRelease) {
  Connection pair = connect_pair();
  write_bytes(pair.server.get(), "unread");
  settle();
  network_.in("source", [&] {
    proto::TcpSocket description = capture_tcp_socket(pair.server.get());
    capture_tcp_stream(pair.server.get(), description);
    const auto sent = network_.counter("dest", "Tcp", "OutSegs");
    const auto resets = network_.counter("dest", "Tcp", "OutRsts");
    network_.in("dest", [&] {
      const UniqueFd twin = prepare_tcp_socket(description);
      finish_tcp_socket(twin.get(), description);
    });
    EXPECT_EQ(network_.counter("dest", "Tcp", "OutSegs"), sent);
    EXPECT_EQ(network_.counter("dest", "Tcp", "OutRsts"), resets);
    write_bytes(pair.client.get(), "still here");
    EXPECT_EQ(read_bytes(pair.server.get(), 10), "still here");
  });
}

TEST_P(TcpMove, PreflightNamesALocalOtherEnd) {
  network_.in("source", [&] {
    const SocketAddress home =
        at(std::string(GetParam()).find(':') == std::string::npos ? "127.0.0.1" : "::1", 7);
    const UniqueFd listener(socket(home.family(), SOCK_STREAM | SOCK_CLOEXEC, 0));
    ASSERT_EQ(bind(listener.get(), home.get(), home.size()), 0);
    ASSERT_EQ(listen(listener.get(), 1), 0);
    const UniqueFd one(socket(home.family(), SOCK_STREAM | SOCK_CLOEXEC, 0));
    ASSERT_EQ(connect(one.get(), home.get(), home.size()), 0);
    const UniqueFd other(accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
    const auto inode = [](const UniqueFd& fd) { return capture_tcp_socket(fd.get()).inode(); };
    Findings findings;
    preflight_tcp_socket(one.get(), 5, ProcessSockets({inode(one), inode(other)}), findings);
    EXPECT_TRUE(findings.empty());
    preflight_tcp_socket(one.get(), 5, ProcessSockets({inode(one)}), findings);
    ASSERT_EQ(findings.size(), 1U);
    EXPECT_EQ(findings[0].id(), "tcp-other-end-outside");
    EXPECT_EQ(findings[0].object(), "fd 5");
  });
  Findings findings;
  network_.in("source",
              [&] { listener_ = UniqueFd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)); });
  preflight_tcp_socket(listener_.get(), 6, ProcessSockets({}), findings);
  ASSERT_EQ(findings.size(), 1U);
  EXPECT_EQ(findings[0].id(), "socket-of-other-network");
}

INSTANTIATE_TEST_SUITE_P(Families, TcpMove, testing::Values("10.77.0.5", "fd77::5"),
                         [](const auto& info) {
                           return std::string(info.param).find(':') == std::string::npos ? "v4"
                                                                                         : "v6";
                         });

}  // namespace
}  // namespace godwit
