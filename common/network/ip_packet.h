// IP packets as bytes: parsing, checksums, and the few that Godwit makes itself (RFC 791, 8200,
// 9293, 768, 1071).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "common/network/socket_address.h"

namespace godwit {

struct PacketFacts {
  IpAddress source;
  IpAddress destination;
  int protocol = 0;               // IPPROTO_TCP, ...
  std::size_t header_bytes = 0;   // of IP, extension headers included
  std::size_t bytes = 0;          // of the whole packet as its header says
  bool fragment = false;          // a part of a datagram: ports and checksum can't be told
  std::uint16_t source_port = 0;  // TCP and UDP
  std::uint16_t destination_port = 0;
};
// nullopt: not a whole IP packet.
std::optional<PacketFacts> parse_packet(std::string_view packet);

// Makes the transport checksum complete. A packet that never left a host, or that the card checked,
// may carry only the sum of the pseudo header there; one that carries neither that nor the right
// sum was damaged on the way: false, and nobody must deliver it.
[[nodiscard]] bool complete_checksum(std::string& packet);

// Fills the checksum of an ICMPv6 packet whose checksum field is zero.
void set_icmpv6_checksum(std::string& packet);

// Whole packets with complete checksums. Both addresses are of one family (mapped ones are IPv4).
struct TcpSegment {
  std::uint32_t sequence = 0;
  std::uint32_t acknowledgement = 0;
  std::uint8_t flags = 0;  // TH_FIN and so on of <netinet/tcp.h>
  std::uint16_t window = 0;
};
std::string build_tcp_packet(const SocketAddress& from, const SocketAddress& to,
                             const TcpSegment& segment);
std::string build_udp_packet(const SocketAddress& from, const SocketAddress& to,
                             std::string_view payload);

}  // namespace godwit
