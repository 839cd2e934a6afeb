#include "common/network/packet_hold.h"

#include <gtest/gtest.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <csignal>
#include <thread>

#include "common/base/clock.h"
#include "common/kernel/sock_diag.h"
#include "common/network/ip_packet.h"
#include "common/network/network_fixture.h"

namespace godwit {
namespace {

SocketAddress at(const std::string& text, std::uint16_t port) {
  return {*IpAddress::from_text(text), port};
}

UniqueFd make_socket(const SocketAddress& address, int type) {
  UniqueFd fd(socket(address.family(), type | SOCK_CLOEXEC, 0));
  if (!fd.valid()) throw_system("socket");
  return fd;
}

UniqueFd listen_on(const SocketAddress& address) {
  UniqueFd fd = make_socket(address, SOCK_STREAM);
  const int on = 1;
  setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  if (bind(fd.get(), address.get(), address.size()) != 0) throw_system("bind");
  if (listen(fd.get(), 100) != 0) throw_system("listen");
  return fd;
}

UniqueFd connect_to(const SocketAddress& address, int type) {
  UniqueFd fd = make_socket(address, type);
  if (connect(fd.get(), address.get(), address.size()) != 0) throw_system("connect");
  return fd;
}

void sleep_ms(int ms) { std::this_thread::sleep_for(std::chrono::milliseconds(ms)); }

EndpointSet port_of(const std::string& address, int protocol, std::uint16_t port) {
  EndpointSet set;
  Endpoint endpoint;
  endpoint.protocol = protocol;
  endpoint.local = *IpAddress::from_text(address);
  endpoint.local_port = port;
  endpoint.remote.family = endpoint.local.family;
  endpoint.listening = protocol == IPPROTO_TCP;
  set.add(endpoint);
  return set;
}

class Hold : public testing::TestWithParam<const char*> {
 protected:
  std::string id() const {
    return fmt::format("{:x}test", static_cast<std::uint64_t>(getpid()) << 8);
  }
  TestNetwork network_;
};

TEST_P(Hold, EstablishedConnectionWaitsAndGoesOnAfterRollback) {
  const SocketAddress service = at(GetParam(), 6379);
  UniqueFd client;
  UniqueFd server;
  network_.in("source", [&] {
    const UniqueFd listener = listen_on(service);
    network_.in("client", [&] { client = connect_to(service, SOCK_STREAM); });
    server = UniqueFd(accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
    PacketHold hold(id());
    PacketReplay replay;
    hold.prepare({});
    hold.activate(port_of(GetParam(), IPPROTO_TCP, 6379));
    const std::string request(20000, 'r');
    send(client.get(), request.data(), request.size(), 0);
    sleep_ms(20);
    std::string got(30000, '\0');
    EXPECT_EQ(recv(server.get(), got.data(), got.size(), MSG_DONTWAIT), -1);
    const std::vector<std::string> taken = hold.take();
    EXPECT_FALSE(taken.empty());
    hold.deactivate(replay, taken);
    std::size_t received = 0;
    while (received < request.size()) {
      const ssize_t bytes = recv(server.get(), got.data(), got.size(), 0);
      ASSERT_GT(bytes, 0);
      received += static_cast<std::size_t>(bytes);
    }
    EXPECT_EQ(received, request.size());
    EXPECT_EQ(hold.overflows(), 0U);
  });
  EXPECT_EQ(network_.counter("client", "TcpExt", "TCPTimeouts"), 0);
  EXPECT_EQ(network_.run("source", "nft list tables"), "");
}

TEST_P(Hold, NewConnectionsWaitWithoutARetransmission) {
  const SocketAddress service = at(GetParam(), 6379);
  network_.in("source", [&] {
    const UniqueFd listener = listen_on(service);
    EndpointSet endpoints = port_of(GetParam(), IPPROTO_TCP, 6379);
    PacketHold hold(id());
    PacketReplay replay;
    hold.prepare(endpoints);
    EXPECT_TRUE(listeners_drained(endpoints));
    UniqueFd early;
    network_.in("client", [&] { early = connect_to(service, SOCK_STREAM); });
    EXPECT_FALSE(listeners_drained(endpoints));
    hold.hold_new_connections();
    const UniqueFd accepted(accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
    EXPECT_TRUE(listeners_drained(endpoints));
    std::thread client([&] {
      network_.in("client", [&] {
        const std::int64_t start = monotonic_ns();
        const UniqueFd late = connect_to(service, SOCK_STREAM);
        EXPECT_LT(monotonic_ns() - start, 500'000'000);
      });
    });
    sleep_ms(50);
    EXPECT_TRUE(listeners_drained(endpoints));
    send(early.get(), "x", 1, 0);  // what was connected goes on
    char byte = 0;
    EXPECT_EQ(recv(accepted.get(), &byte, 1, 0), 1);
    hold.deactivate(replay);
    client.join();
  });
  EXPECT_EQ(network_.counter("client", "TcpExt", "TCPTimeouts"), 0);
}

TEST_P(Hold, DatagramsAreNeitherLostNorDoubled) {
  constexpr int kDatagrams = 4000;
  const SocketAddress service = at(GetParam(), 5353);
  std::vector<int> seen(kDatagrams, 0);
  network_.in("source", [&] {
    const UniqueFd server = make_socket(service, SOCK_DGRAM);
    const int room = 16 << 20;
    setsockopt(server.get(), SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof room);
    ASSERT_EQ(bind(server.get(), service.get(), service.size()), 0);
    const EndpointSet endpoints = port_of(GetParam(), IPPROTO_UDP, 5353);
    std::atomic<bool> done = false;
    std::thread client([&] {
      network_.in("client", [&] {
        const UniqueFd fd = connect_to(service, SOCK_DGRAM);
        for (int number = 0; number < kDatagrams; ++number) {
          send(fd.get(), &number, sizeof number, 0);
          std::this_thread::sleep_for(std::chrono::microseconds(20));
        }
        done = true;
      });
    });
    PacketHold hold(id());
    PacketReplay replay;
    hold.prepare(endpoints);
    while (!done) {
      hold.activate(endpoints);
      sleep_ms(2);
      const std::vector<std::string> taken = hold.take();
      hold.deactivate(replay, taken);
      sleep_ms(2);
    }
    client.join();
    sleep_ms(20);
    for (int number; recv(server.get(), &number, sizeof number, MSG_DONTWAIT) == sizeof number;) {
      ++seen.at(static_cast<std::size_t>(number));
    }
    EXPECT_EQ(hold.overflows(), 0U);
  });
  for (int number = 0; number < kDatagrams; ++number) {
    ASSERT_EQ(seen[static_cast<std::size_t>(number)], 1) << "datagram " << number;
  }
}

TEST_P(Hold, OpensQuicklyHoweverManyConnections) {
  network_.in("source", [&] {
    for (const int count : {50, 1000}) {
      EndpointSet endpoints;
      for (int index = 0; index < count; ++index) {
        Endpoint endpoint;
        endpoint.protocol = IPPROTO_TCP;
        endpoint.local = *IpAddress::from_text(GetParam());
        endpoint.remote = endpoint.local;
        endpoint.local_port = 6379;
        endpoint.remote_port = static_cast<std::uint16_t>(1000 + index);
        endpoints.add(endpoint);
      }
      PacketHold hold(id());
      const std::int64_t start = monotonic_ns();
      hold.prepare(endpoints);
      const std::int64_t prepared = monotonic_ns();
      hold.activate(endpoints);
      const std::int64_t active = monotonic_ns();
      fmt::print("{} connections: prepare {:.2f} ms, activate {:.3f} ms\n", count,
                 to_ms(prepared - start), to_ms(active - prepared));
      EXPECT_LT(active - prepared, 20'000'000);
    }
  });
}

TEST_P(Hold, ReachesStragglersForAnAddressThatIsGone) {
  const std::string address = GetParam();
  const SocketAddress service = at(address, 5353);
  const bool v6 = address.find(':') != std::string::npos;
  UniqueFd client;
  network_.in("client", [&] {
    client = connect_to(service, SOCK_DGRAM);
    send(client.get(), "a", 1, 0);  // the neighbour is known now
    sleep_ms(20);
    int refused = 0;  // nobody listens there; take the error out of the way
    socklen_t bytes = sizeof refused;
    getsockopt(client.get(), SOL_SOCKET, SO_ERROR, &refused, &bytes);
  });
  network_.in("source", [&] {
    PacketHold hold(id());
    hold.prepare({});
    const IpAddress gone = *IpAddress::from_text(address);
    hold.activate_stragglers({&gone, 1});
    network_.run("source", fmt::format("ip addr del {}/{} dev eth0", address, v6 ? 64 : 24));
    send(client.get(), "straggler", 9, 0);
    sleep_ms(20);
    const std::vector<std::string> taken = hold.take();
    ASSERT_EQ(taken.size(), 1U);
    EXPECT_TRUE(taken[0].ends_with("straggler"));
    const auto facts = parse_packet(taken[0]);
    EXPECT_EQ(facts->destination.text(), address);
  });
}

TEST_P(Hold, RulesGoWithTheProcess) {
  network_.in("source", [&] {
    const pid_t child = fork();
    if (child == 0) {
      PacketHold hold(id());
      hold.prepare({});
      hold.activate(port_of(GetParam(), IPPROTO_TCP, 6379));
      kill(getpid(), SIGKILL);
    }
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    ASSERT_TRUE(WIFSIGNALED(status));
    std::string tables = network_.run("source", "nft list tables");
    for (int waited = 0; waited < 100 && !tables.empty(); ++waited) {
      sleep_ms(10);
      tables = network_.run("source", "nft list tables");
    }
    EXPECT_EQ(tables, "");
  });
}

TEST(HoldNames, OddMigrationIdsAreRefused) {
  EXPECT_THROW(PacketHold("a; flush ruleset"), Error);
  EXPECT_THROW(PacketHold(""), Error);
}

// Others have packets on their way to whoever releases: it has to go on and take those.
TEST_P(Hold, ReleaseWaitsForNobody) {
  network_.in("source", [&] {
    const EndpointSet endpoints = port_of(GetParam(), IPPROTO_TCP, 6379);
    std::int64_t best_ns = INT64_MAX;
    for (int turn = 0; turn < 5; ++turn) {
      PacketHold hold(id());
      PacketReplay replay;
      hold.prepare(endpoints);
      hold.activate(endpoints);
      const std::int64_t began_ns = monotonic_ns();
      hold.release(replay);
      best_ns = std::min(best_ns, monotonic_ns() - began_ns);
      const UniqueFd listener = listen_on(at(GetParam(), 6379));
      network_.in("client", [&] { connect_to(at(GetParam(), 6379), SOCK_STREAM); });
      hold.remove();
      EXPECT_FALSE(remove_leftover_rules(id()));
    }
    EXPECT_LT(best_ns, 2'000'000);
  });
}

INSTANTIATE_TEST_SUITE_P(Families, Hold, testing::Values("10.77.0.5", "fd77::5"),
                         [](const auto& info) {
                           return std::string(info.param).find(':') == std::string::npos ? "v4"
                                                                                         : "v6";
                         });

}  // namespace
}  // namespace godwit
