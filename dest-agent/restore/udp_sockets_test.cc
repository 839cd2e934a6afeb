#include "dest-agent/restore/udp_sockets.h"

#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <chrono>
#include <cstring>
#include <thread>

#include "common/kernel/socket_options.h"
#include "common/network/addresses.h"
#include "common/network/network_fixture.h"
#include "common/network/packet_hold.h"
#include "source-agent/capture/udp_sockets.h"

namespace godwit {
namespace {

class UdpMove : public testing::TestWithParam<const char*> {
 protected:
  SocketAddress service() const { return {*IpAddress::from_text(GetParam()), 5353}; }
  bool v6() const { return service().family() == AF_INET6; }
  TestNetwork network_;
};

void send_text(int fd, const SocketAddress& to, const std::string& text) {
  ASSERT_EQ(sendto(fd, text.data(), text.size(), 0, to.get(), to.size()),
            static_cast<ssize_t>(text.size()));
}

struct Received {
  std::string text;
  std::string from;
};
Received receive(int fd) {
  std::string buffer(65536, '\0');
  sockaddr_storage from{};
  socklen_t bytes = sizeof from;
  const ssize_t got = recvfrom(fd, buffer.data(), buffer.size(), MSG_DONTWAIT,
                               reinterpret_cast<sockaddr*>(&from), &bytes);
  if (got < 0) return {"none", ""};
  buffer.resize(static_cast<std::size_t>(got));
  return {buffer, SocketAddress::from_bytes({reinterpret_cast<const char*>(&from), bytes})->text()};
}

void settle() { std::this_thread::sleep_for(std::chrono::milliseconds(30)); }

// The server is bound to the wildcard (dual stack); datagrams wait in its queue.
TEST_P(UdpMove, QueueMovesWithSendersInOrder) {
  UniqueFd server;
  UniqueFd client;
  proto::UdpSocket description;
  const SocketAddress wildcard(*IpAddress::from_text("::"), 5353);
  const std::string large(20000, 'l');  // in fragments
  network_.in("client",
              [&] { client = UniqueFd(socket(service().family(), SOCK_DGRAM | SOCK_CLOEXEC, 0)); });
  network_.in("source", [&] {
    server = UniqueFd(socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    ASSERT_EQ(bind(server.get(), wildcard.get(), wildcard.size()), 0);
    for (const std::string& text :
         {std::string("one"), std::string(), large, std::string("four")}) {
      send_text(client.get(), service(), text);
    }
    settle();
    description = capture_udp_socket(server.get());
    capture_udp_queue(server.get(), description);
    capture_udp_queue(server.get(), description);
    ASSERT_EQ(description.queue_size(), 4);
    EXPECT_EQ(int_socket_option(server.get(), SOL_SOCKET, SO_PEEK_OFF), -1);
    EXPECT_EQ(receive(server.get()).text, "one");  // it is all still here
  });
  server.reset();
  network_.run("source",
               v6() ? "ip addr del fd77::5/64 dev eth0" : "ip addr del 10.77.0.5/24 dev eth0");
  network_.in("dest", [&] {
    const UniqueFd moved = prepare_udp_socket(description);
    finish_udp_socket(moved.get(), description);
    proto::MovedAddress address;
    address.set_address(std::string(service().ip().view()));
    address.set_prefix_length(v6() ? 64 : 24);
    IncomingAddresses incoming("udptest");
    incoming.add_silently({&address, 1}, 60);
    PacketReplay replay;
    release_udp_socket(moved.get(), description, replay);
    const std::string from = SocketAddress::local_of(client.get())->text();
    const std::string port = from.substr(from.rfind(':'));
    for (const std::string& text :
         {std::string("one"), std::string(), large, std::string("four")}) {
      const Received got = receive(moved.get());
      EXPECT_TRUE(got.text == text) << got.text.size() << " bytes instead of " << text.size();
      EXPECT_EQ(got.from, (v6() ? "[fd77::3]" : "[::ffff:10.77.0.3]") + port);
    }
    EXPECT_EQ(receive(moved.get()).text, "none");
    incoming.announce();
    send_text(client.get(), service(), "after");
    settle();
    EXPECT_EQ(receive(moved.get()).text, "after");
  });
}

TEST_P(UdpMove, ConnectedSocketAndOptions) {
  UniqueFd server;
  UniqueFd client;
  network_.in("source", [&] {
    server = UniqueFd(socket(service().family(), SOCK_DGRAM | SOCK_CLOEXEC, 0));
    const SocketAddress own = service();
    ASSERT_EQ(bind(server.get(), own.get(), own.size()), 0);
    const SocketAddress peer(*IpAddress::from_text(v6() ? "fd77::3" : "10.77.0.3"), 99);
    ASSERT_EQ(connect(server.get(), peer.get(), peer.size()), 0);
    const int on = 1;
    setsockopt(server.get(), SOL_SOCKET, SO_BROADCAST, &on, sizeof on);
    const int size = 50000;
    setsockopt(server.get(), SOL_SOCKET, SO_RCVBUF, &size, sizeof size);
    Findings findings;
    preflight_udp_socket(server.get(), 4, findings);
    EXPECT_TRUE(findings.empty());
  });
  proto::UdpSocket description = capture_udp_socket(server.get());
  network_.in("dest", [&] {
    const UniqueFd moved = prepare_udp_socket(description);
    finish_udp_socket(moved.get(), description);
    PacketReplay replay;
    release_udp_socket(moved.get(), description, replay);
    proto::UdpSocket again = capture_udp_socket(moved.get());
    again.set_inode(description.inode());
    EXPECT_EQ(again.DebugString(), description.DebugString());
  });
}

TEST_P(UdpMove, MulticastMembersAreRefused) {
  network_.in("source", [&] {
    const UniqueFd fd(socket(service().family(), SOCK_DGRAM | SOCK_CLOEXEC, 0));
    group_req request{};
    const SocketAddress group(*IpAddress::from_text(v6() ? "ff02::1234" : "239.1.2.3"), 0);
    std::memcpy(&request.gr_group, group.get(), group.size());
    request.gr_interface = 1;
    for (unsigned index = 1; index < 10; ++index) {
      request.gr_interface = index;
      const int level = v6() ? static_cast<int>(IPPROTO_IPV6) : static_cast<int>(IPPROTO_IP);
      if (setsockopt(fd.get(), level, MCAST_JOIN_GROUP, &request, sizeof request) == 0) break;
    }
    Findings findings;
    preflight_udp_socket(fd.get(), 4, findings);
    ASSERT_EQ(findings.size(), 1U);
    EXPECT_EQ(findings[0].id(), "udp-multicast");
    EXPECT_NE(findings[0].problem().find(group.ip().text()), std::string::npos);
  });
}

INSTANTIATE_TEST_SUITE_P(Families, UdpMove, testing::Values("10.77.0.5", "fd77::5"),
                         [](const auto& info) {
                           return std::string(info.param).find(':') == std::string::npos ? "v4"
                                                                                         : "v6";
                         });

}  // namespace
}  // namespace godwit
