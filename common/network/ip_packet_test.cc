#include "common/network/ip_packet.h"

#include <gtest/gtest.h>
#include <netinet/in.h>
#include <netinet/tcp.h>

#include "common/network/endpoints.h"

namespace godwit {
namespace {

SocketAddress at(const std::string& text, std::uint16_t port) {
  return {*IpAddress::from_text(text), port};
}

TEST(IpPacket, BuiltPacketsHaveRightChecksumsAndDamagedOnesAreFound) {
  for (const char* address : {"10.0.0.1", "fd00::1"}) {
    for (std::size_t bytes = 0; bytes < 40; ++bytes) {
      const std::string whole =
          build_udp_packet(at(address, 1000), at(address, 2000), std::string(bytes, '\x7f'));
      std::string copy = whole;
      EXPECT_TRUE(complete_checksum(copy));
      EXPECT_EQ(copy, whole);
      copy.back() = static_cast<char>(copy.back() ^ 0x10);
      EXPECT_FALSE(complete_checksum(copy));
    }
  }
}

TEST(IpPacket, ChecksumThatIsOnlyThePseudoHeadersIsCompleted) {
  TcpSegment segment;
  segment.sequence = 0x01020304;
  segment.flags = TH_ACK;
  const std::string whole = build_tcp_packet(at("10.0.0.1", 1000), at("10.0.0.2", 2000), segment);
  std::string partial = whole;
  // 10.0.0.1 + 10.0.0.2 + protocol 6 + 20 bytes, as 16-bit words.
  constexpr std::uint16_t kPseudo = 0x0a00 + 0x0001 + 0x0a00 + 0x0002 + 6 + 20;
  partial[36] = static_cast<char>(kPseudo >> 8);
  partial[37] = static_cast<char>(kPseudo & 0xff);
  EXPECT_TRUE(complete_checksum(partial));
  EXPECT_EQ(partial, whole);
}

TEST(IpPacket, TruncatedPacketsAreNotPackets) {
  const std::string whole = build_udp_packet(at("fd00::1", 1), at("fd00::2", 2), "payload");
  EXPECT_TRUE(parse_packet(whole));
  for (std::size_t bytes = 0; bytes < whole.size(); ++bytes) {
    EXPECT_FALSE(parse_packet(std::string_view(whole).substr(0, bytes))) << bytes;
  }
}

TEST(Endpoints, MatchByConnectionAddressAndPort) {
  EndpointSet set;
  proto::TcpSocket listener;
  listener.set_family(AF_INET6);
  listener.set_state(TCP_LISTEN);
  listener.set_local_address(at("::", 80).bytes());
  set.add(listener);
  proto::TcpSocket connection;
  connection.set_family(AF_INET6);
  connection.set_state(TCP_ESTABLISHED);
  connection.set_local_address(at("::ffff:10.0.0.1", 999).bytes());
  connection.set_remote_address(at("::ffff:10.0.0.2", 5000).bytes());
  set.add(connection);

  const auto tcp = [&](const SocketAddress& from, const SocketAddress& to) {
    return set.matches(build_tcp_packet(from, to, {}));
  };
  EXPECT_TRUE(tcp(at("10.0.0.9", 1), at("10.0.0.7", 80)));  // dual stack
  EXPECT_TRUE(tcp(at("fd00::9", 1), at("fd00::7", 80)));
  EXPECT_FALSE(tcp(at("10.0.0.9", 1), at("10.0.0.7", 81)));
  EXPECT_TRUE(tcp(at("10.0.0.2", 5000), at("10.0.0.1", 999)));
  EXPECT_FALSE(tcp(at("10.0.0.2", 5001), at("10.0.0.1", 999)));
  EXPECT_FALSE(set.matches(build_udp_packet(at("10.0.0.9", 1), at("10.0.0.7", 80), "")));
  ASSERT_EQ(set.local_addresses().size(), 1U);
  EXPECT_EQ(set.local_addresses()[0].text(), "10.0.0.1");
}

}  // namespace
}  // namespace godwit
