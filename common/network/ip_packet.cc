#include "common/network/ip_packet.h"

#include <arpa/inet.h>
#include <netinet/in.h>

#include <algorithm>
#include <cstring>

#include "common/base/error.h"

namespace godwit {
namespace {

constexpr std::size_t kIpv4Bytes = 20;
constexpr std::size_t kIpv6Bytes = 40;
constexpr std::uint8_t kTimeToLive = 64;

std::uint16_t read16(std::string_view bytes, std::size_t at) {
  std::uint16_t value = 0;
  std::memcpy(&value, bytes.data() + at, sizeof value);
  return ntohs(value);
}

void write16(std::string& bytes, std::size_t at, std::uint16_t value) {
  value = htons(value);
  std::memcpy(bytes.data() + at, &value, sizeof value);
}

void write32(std::string& bytes, std::size_t at, std::uint32_t value) {
  value = htonl(value);
  std::memcpy(bytes.data() + at, &value, sizeof value);
}

std::uint64_t add_words(std::string_view bytes, std::uint64_t sum) {
  std::size_t at = 0;
  for (; at + 2 <= bytes.size(); at += 2) sum += read16(bytes, at);
  if (at < bytes.size())
    sum += static_cast<std::uint64_t>(static_cast<std::uint8_t>(bytes[at])) << 8;
  return sum;
}

std::uint16_t fold(std::uint64_t sum) {
  while ((sum >> 16) != 0) sum = (sum & 0xffff) + (sum >> 16);
  return static_cast<std::uint16_t>(sum);
}

std::uint64_t pseudo_header_sum(const PacketFacts& facts) {
  std::uint64_t sum = add_words(facts.source.view(), 0);
  sum = add_words(facts.destination.view(), sum);
  return sum + static_cast<std::uint64_t>(facts.protocol) + (facts.bytes - facts.header_bytes);
}

bool is_extension_header(int protocol) {
  return protocol == IPPROTO_HOPOPTS || protocol == IPPROTO_ROUTING ||
         protocol == IPPROTO_DSTOPTS || protocol == IPPROTO_FRAGMENT;
}

std::optional<PacketFacts> parse_ipv4(std::string_view packet) {
  if (packet.size() < kIpv4Bytes) return std::nullopt;
  PacketFacts facts;
  facts.header_bytes = (static_cast<std::uint8_t>(packet[0]) & 0x0f) * 4U;
  facts.bytes = read16(packet, 2);
  facts.fragment = (read16(packet, 6) & 0x3fff) != 0;  // more fragments, or an offset
  facts.protocol = static_cast<std::uint8_t>(packet[9]);
  facts.source = *IpAddress::from_bytes(packet.substr(12, 4));
  facts.destination = *IpAddress::from_bytes(packet.substr(16, 4));
  if (facts.header_bytes < kIpv4Bytes) return std::nullopt;
  return facts;
}

std::optional<PacketFacts> parse_ipv6(std::string_view packet) {
  if (packet.size() < kIpv6Bytes) return std::nullopt;
  PacketFacts facts;
  facts.header_bytes = kIpv6Bytes;
  facts.bytes = kIpv6Bytes + read16(packet, 4);
  facts.protocol = static_cast<std::uint8_t>(packet[6]);
  facts.source = *IpAddress::from_bytes(packet.substr(8, 16));
  facts.destination = *IpAddress::from_bytes(packet.substr(24, 16));
  while (is_extension_header(facts.protocol)) {
    if (packet.size() < facts.header_bytes + 8) return std::nullopt;
    const bool fragment = facts.protocol == IPPROTO_FRAGMENT;
    // 0xfff9: an offset, or more fragments; an atomic fragment has neither and is whole.
    if (fragment) facts.fragment = (read16(packet, facts.header_bytes + 2) & 0xfff9) != 0;
    facts.protocol = static_cast<std::uint8_t>(packet[facts.header_bytes]);
    const auto length = static_cast<std::uint8_t>(packet[facts.header_bytes + 1]);
    facts.header_bytes += fragment ? 8 : (length + 1U) * 8U;
  }
  return facts;
}

// Where in the transport header the checksum is; 0: unknown protocol.
std::size_t checksum_offset(int protocol) {
  switch (protocol) {
    case IPPROTO_TCP:
      return 16;
    case IPPROTO_UDP:
      return 6;
    case IPPROTO_ICMPV6:
      return 2;
    default:
      return 0;
  }
}

// The transport checksum field is zero: gives it the form that complete_checksum() completes.
void fill_checksum(std::string& packet) {
  const auto facts = parse_packet(packet);
  if (!facts) fail("a packet of {} bytes is too long", packet.size());
  write16(packet, facts->header_bytes + checksum_offset(facts->protocol),
          fold(pseudo_header_sum(*facts)));
  if (!complete_checksum(packet)) fail("checksum of a packet of {} bytes", packet.size());
}

void write_address(std::string& packet, std::size_t at, const IpAddress& address) {
  packet.replace(at, address.size(), reinterpret_cast<const char*>(address.bytes.data()),
                 address.size());
}

std::string build_packet(const SocketAddress& from, const SocketAddress& to, int protocol,
                         std::string_view transport) {
  const IpAddress source = from.ip().unmapped();
  const IpAddress destination = to.ip().unmapped();
  if (source.family != destination.family) {
    fail("packet from {} to {}: two address families", from.text(), to.text());
  }
  const bool v6 = source.family == AF_INET6;
  std::string packet(v6 ? kIpv6Bytes : kIpv4Bytes, '\0');
  if (v6) {
    packet[0] = 0x60;
    write16(packet, 4, static_cast<std::uint16_t>(transport.size()));
    packet[6] = static_cast<char>(protocol);
    packet[7] = kTimeToLive;
  } else {
    packet[0] = 0x45;
    write16(packet, 2, static_cast<std::uint16_t>(packet.size() + transport.size()));
    packet[8] = kTimeToLive;
    packet[9] = static_cast<char>(protocol);
  }
  write_address(packet, v6 ? 8 : 12, source);
  write_address(packet, v6 ? 24 : 16, destination);
  if (!v6) write16(packet, 10, static_cast<std::uint16_t>(~fold(add_words(packet, 0))));
  packet += transport;
  fill_checksum(packet);
  return packet;
}

}  // namespace

std::optional<PacketFacts> parse_packet(std::string_view packet) {
  if (packet.empty()) return std::nullopt;
  const int version = static_cast<std::uint8_t>(packet[0]) >> 4;
  std::optional<PacketFacts> facts;
  if (version == 4) facts = parse_ipv4(packet);
  if (version == 6) facts = parse_ipv6(packet);
  if (!facts || facts->bytes > packet.size() || facts->header_bytes > facts->bytes) {
    return std::nullopt;
  }
  const bool ports = facts->protocol == IPPROTO_TCP || facts->protocol == IPPROTO_UDP;
  if (ports && !facts->fragment) {
    if (facts->bytes < facts->header_bytes + 8) return std::nullopt;
    facts->source_port = read16(packet, facts->header_bytes);
    facts->destination_port = read16(packet, facts->header_bytes + 2);
  }
  return facts;
}

bool complete_checksum(std::string& packet) {
  const auto facts = parse_packet(packet);
  if (!facts) return false;
  const std::size_t offset = checksum_offset(facts->protocol);
  if (facts->fragment || offset == 0) return true;
  const std::size_t at = facts->header_bytes + offset;
  if (at + 2 > facts->bytes) return false;
  const std::uint16_t stored = read16(packet, at);
  const bool optional = facts->protocol == IPPROTO_UDP && facts->source.family == AF_INET;
  if (optional && stored == 0) return true;
  const std::uint64_t pseudo = pseudo_header_sum(*facts);
  const std::string_view transport =
      std::string_view(packet).substr(facts->header_bytes, facts->bytes - facts->header_bytes);
  const std::uint64_t sum = add_words(transport, pseudo);
  if (fold(sum) == 0xffff) return true;
  if (stored != fold(pseudo)) return false;
  std::uint16_t complete = static_cast<std::uint16_t>(~fold(sum - stored));
  if (complete == 0 && facts->protocol == IPPROTO_UDP) complete = 0xffff;
  write16(packet, at, complete);
  return true;
}

void set_icmpv6_checksum(std::string& packet) { fill_checksum(packet); }

std::string build_tcp_packet(const SocketAddress& from, const SocketAddress& to,
                             const TcpSegment& segment) {
  std::string header(20, '\0');
  write16(header, 0, from.port());
  write16(header, 2, to.port());
  write32(header, 4, segment.sequence);
  write32(header, 8, segment.acknowledgement);
  header[12] = 5 << 4;  // words of this header
  header[13] = static_cast<char>(segment.flags);
  write16(header, 14, segment.window);
  return build_packet(from, to, IPPROTO_TCP, header);
}

std::string build_udp_packet(const SocketAddress& from, const SocketAddress& to,
                             std::string_view payload) {
  std::string datagram(8, '\0');
  write16(datagram, 0, from.port());
  write16(datagram, 2, to.port());
  write16(datagram, 4, static_cast<std::uint16_t>(datagram.size() + payload.size()));
  datagram += payload;
  return build_packet(from, to, IPPROTO_UDP, datagram);
}

}  // namespace godwit
