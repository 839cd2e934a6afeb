#include "common/network/announcement.h"

#include <netinet/in.h>

#include <string_view>

#include "common/base/error.h"
#include "common/network/ip_packet.h"

namespace godwit {
namespace {

using namespace std::string_view_literals;

constexpr auto kBroadcast = "\xff\xff\xff\xff\xff\xff"sv;
constexpr auto kNobody = "\0\0\0\0\0\0"sv;
constexpr auto kArpType = "\x08\x06"sv;
constexpr auto kIpv6Type = "\x86\xdd"sv;
// Ethernet and IPv4, 6 and 4 bytes long.
constexpr auto kArpKind = "\0\x01\x08\0\x06\x04"sv;
constexpr auto kArpRequest = "\0\x01"sv;
constexpr auto kArpReply = "\0\x02"sv;
constexpr auto kAllNodesHardware = "\x33\x33\0\0\0\x01"sv;
constexpr auto kAllNodes = "\xff\x02\0\0\0\0\0\0\0\0\0\0\0\0\0\x01"sv;

std::string join(std::initializer_list<std::string_view> parts) {
  std::string text;
  for (const std::string_view part : parts) text += part;
  return text;
}

std::string arp_frame(std::string_view operation, const IpAddress& address,
                      std::string_view hardware, std::string_view target) {
  return join({kBroadcast, hardware, kArpType, kArpKind, operation, hardware, address.view(),
               target, address.view()});
}

std::string advertisement_frame(const IpAddress& address, std::string_view hardware) {
  // Type 136; flags: override; option 2: our hardware address. The checksum field is filled below.
  const std::string body = join({"\x88\0\0\0\x20\0\0\0"sv, address.view(), "\x02\x01"sv, hardware});
  std::string packet = join({"\x60\0\0\0"sv, std::string{'\0', static_cast<char>(body.size())},
                             "\x3a\xff"sv, address.view(), kAllNodes, body});
  set_icmpv6_checksum(packet);
  return join({kAllNodesHardware, hardware, kIpv6Type, packet});
}

}  // namespace

std::vector<std::string> announcement_frames(const IpAddress& address,
                                             const std::string& hardware_address) {
  if (hardware_address.size() != kNobody.size()) fail("not an Ethernet address");
  if (address.family == AF_INET6) return {advertisement_frame(address, hardware_address)};
  // Some hosts learn from one, some from the other.
  return {arp_frame(kArpRequest, address, hardware_address, kNobody),
          arp_frame(kArpReply, address, hardware_address, hardware_address)};
}

}  // namespace godwit
