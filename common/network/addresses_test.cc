#include "common/network/addresses.h"

#include <gtest/gtest.h>
#include <sys/socket.h>

#include <chrono>
#include <thread>

#include "common/base/clock.h"
#include "common/network/network_fixture.h"
#include "common/network/packet_hold.h"

namespace godwit {
namespace {

class Addresses : public testing::TestWithParam<const char*> {
 protected:
  std::string id() const { return fmt::format("{:x}addr", static_cast<unsigned>(getpid())); }
  bool v6() const { return std::string(GetParam()).find(':') != std::string::npos; }
  IpAddress address() const { return *IpAddress::from_text(GetParam()); }

  std::string hardware_of(const std::string& host) {
    const std::string text = network_.run(host, "ip -o link show eth0");
    const std::string before = "link/ether ";
    return text.substr(text.find(before) + before.size(), 17);
  }
  std::string neighbour() {
    return network_.run("client", fmt::format("ip neigh show {}", GetParam()));
  }

  TestNetwork network_;
};

// Sends one datagram so that the client has to find the neighbour.
void touch(const std::string& text) {
  const SocketAddress to(*IpAddress::from_text(text), 9);
  const UniqueFd fd(socket(to.family(), SOCK_DGRAM | SOCK_CLOEXEC, 0));
  sendto(fd.get(), "x", 1, 0, to.get(), to.size());
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
}

TEST_P(Addresses, MoveIsSeenByTheNeighbourAndUndone) {
  const IpAddress moving = address();
  network_.in("client", [&] { touch(GetParam()); });
  EXPECT_NE(neighbour().find(hardware_of("source")), std::string::npos) << neighbour();

  std::vector<proto::MovedAddress> moved;
  network_.in("source", [&] { moved = describe_addresses({&moving, 1}); });
  ASSERT_EQ(moved.size(), 1U);
  EXPECT_EQ(moved[0].prefix_length(), v6() ? 64U : 24U);
  EXPECT_EQ(moved[0].interface(), "eth0");

  network_.in("dest", [&] {
    IncomingAddresses incoming(id());
    incoming.add_silently(moved, 30);
    EXPECT_TRUE(has_address(moving));
    // It is here, and nobody can tell.
    network_.run("client", "ip neigh flush dev eth0");
    network_.in("client", [&] { touch(GetParam()); });
    EXPECT_NE(neighbour().find(hardware_of("source")), std::string::npos) << neighbour();

    network_.in("source", [&] {
      OutgoingAddresses outgoing(id() + "s");
      network_.in("dest", [&] {
        const std::int64_t start = monotonic_ns();
        incoming.announce();
        fmt::print("announce {:.3f} ms\n", to_ms(monotonic_ns() - start));
      });
      outgoing.release(moved);
      EXPECT_FALSE(has_address(moving));
      EXPECT_TRUE(has_address(*IpAddress::from_text(v6() ? "fd77::1" : "10.77.0.1")));
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
      EXPECT_NE(neighbour().find(hardware_of("dest")), std::string::npos) << neighbour();
      network_.run("client", "ip neigh flush dev eth0");
      network_.in("client", [&] { touch(GetParam()); });
      EXPECT_NE(neighbour().find(hardware_of("dest")), std::string::npos) << neighbour();
      // And back.
      network_.in("dest", [&] { incoming.withdraw(); });
      outgoing.take_back();
      outgoing.finish();
      EXPECT_TRUE(has_address(moving));
    });
    EXPECT_FALSE(has_address(moving));
  });
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  EXPECT_NE(neighbour().find(hardware_of("source")), std::string::npos) << neighbour();
  EXPECT_EQ(network_.run("dest", "nft list tables"), "");
  EXPECT_EQ(network_.run("source", "nft list tables"), "");
}

TEST_P(Addresses, RemovingTheFirstOfAPrefixLeavesTheOthers) {
  const std::string first = v6() ? "fd88::1/64" : "10.88.0.1/24";
  const std::string second = v6() ? "fd88::2/64" : "10.88.0.2/24";
  network_.run("source",
               fmt::format("ip addr add {0} dev eth0 && ip addr add {1} dev eth0", first, second));
  network_.in("source", [&] {
    const IpAddress gone = *IpAddress::from_text(first.substr(0, first.find('/')));
    const IpAddress stays = *IpAddress::from_text(second.substr(0, second.find('/')));
    OutgoingAddresses outgoing(id());
    outgoing.release(describe_addresses({&gone, 1}));
    EXPECT_FALSE(has_address(gone));
    EXPECT_TRUE(has_address(stays));
    EXPECT_NE(network_.run("source", v6() ? "ip -6 route" : "ip route")
                  .find(v6() ? "fd88::/64" : "10.88.0.0/24"),
              std::string::npos);
    outgoing.finish();
  });
}

TEST_P(Addresses, AnAddressDiesWithItsAgentBeforeTheCommit) {
  proto::MovedAddress moved;
  moved.set_address(std::string(address().view()));
  moved.set_prefix_length(v6() ? 64 : 24);
  network_.in("dest", [&] {
    IncomingAddresses incoming(id());
    incoming.add_silently({&moved, 1}, 1);
    EXPECT_TRUE(has_address(address()));
    // The kernel ends lifetimes when it next looks, within a second or two.
    for (int waited = 0; waited < 50 && has_address(address()); ++waited) {
      std::this_thread::sleep_for(std::chrono::milliseconds(100));
    }
    EXPECT_FALSE(has_address(address()));
  });
}

TEST_P(Addresses, OneThatBelongsToNoLinkIsRefused) {
  proto::MovedAddress moved;
  moved.set_address(std::string(IpAddress::from_text(v6() ? "fd99::5" : "10.99.0.5")->view()));
  moved.set_prefix_length(v6() ? 64 : 24);
  network_.in("dest", [&] {
    IncomingAddresses incoming(id());
    EXPECT_THROW(incoming.add_silently({&moved, 1}, 1), Error);
    moved.set_address(std::string(IpAddress::from_text(v6() ? "fd77::2" : "10.77.0.2")->view()));
    EXPECT_THROW(incoming.add_silently({&moved, 1}, 1), Error);
  });
  network_.in("source", [&] {
    EXPECT_FALSE(is_only_address(address()));
    EXPECT_EQ(why_not_movable(address()), std::nullopt);
    EXPECT_NE(why_not_movable(*IpAddress::from_text(v6() ? "::1" : "127.0.0.1")), std::nullopt);
    network_.run("source",
                 v6() ? "ip addr del fd77::1/64 dev eth0" : "ip addr del 10.77.0.5/24 dev eth0");
    EXPECT_TRUE(is_only_address(*IpAddress::from_text(v6() ? "fd77::5" : "10.77.0.1")));
  });
}

INSTANTIATE_TEST_SUITE_P(Families, Addresses, testing::Values("10.77.0.5", "fd77::5"),
                         [](const auto& info) {
                           return std::string(info.param).find(':') == std::string::npos ? "v4"
                                                                                         : "v6";
                         });

}  // namespace
}  // namespace godwit
