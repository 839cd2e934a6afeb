#include "common/kernel/route_netlink.h"

#include <linux/if_addr.h>
#include <linux/if_arp.h>
#include <linux/if_link.h>
#include <linux/rtnetlink.h>
#include <netlink/attr.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstring>
#include <string_view>

#include "common/base/error.h"
#include "common/kernel/netlink.h"

namespace godwit {
namespace {

constexpr std::size_t kEthernetAddressBytes = 6;

int family_of(const std::string& address) {
  if (address.size() != 4 && address.size() != 16) fail("address of {} bytes", address.size());
  return address.size() == 16 ? AF_INET6 : AF_INET;
}

std::string text_of(const nlattr* attribute) {
  return {static_cast<const char*>(nla_data(attribute)),
          static_cast<std::size_t>(nla_len(attribute))};
}

template <typename Body>
void append_body(const NetlinkMessage& message, Body body) {
  if (nlmsg_append(message.get(), &body, sizeof body, NLMSG_ALIGNTO) < 0) {
    throw_errno(ENOMEM, "rtnetlink message");
  }
}

void append(const NetlinkMessage& message, int type, std::string_view value) {
  if (nla_put(message.get(), type, static_cast<int>(value.size()), value.data()) < 0) {
    throw_errno(ENOMEM, "rtnetlink attribute");
  }
}

void append_number(const NetlinkMessage& message, int type, std::uint32_t value) {
  append(message, type, {reinterpret_cast<const char*>(&value), sizeof value});
}

NetlinkMessage address_message(int type, int flags, const HostAddress& address) {
  NetlinkMessage message = Netlink::make_message(type, flags | NLM_F_ACK);
  ifaddrmsg body{};
  body.ifa_family = static_cast<__u8>(family_of(address.address));
  body.ifa_prefixlen = static_cast<__u8>(address.prefix_length);
  body.ifa_index = static_cast<__u32>(address.interface);
  append_body(message, body);
  append(message, IFA_LOCAL, address.address);
  append(message, IFA_ADDRESS, address.address);
  return message;
}

void put_address(const HostAddress& address, std::uint32_t flags, std::uint32_t valid,
                 std::uint32_t preferred) {
  Netlink netlink(NETLINK_ROUTE, "rtnetlink");
  NetlinkMessage message = address_message(RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, address);
  if (family_of(address.address) == AF_INET6) flags |= IFA_F_NODAD;
  append_number(message, IFA_FLAGS, flags);
  ifa_cacheinfo lifetime{};
  lifetime.ifa_valid = valid;
  lifetime.ifa_prefered = preferred;
  append(message, IFA_CACHEINFO, {reinterpret_cast<const char*>(&lifetime), sizeof lifetime});
  netlink.ask(message, fmt::format("add an address to interface {}", address.interface),
              [](const nlmsghdr&) {});
}

struct Route {
  int type = RTN_UNREACHABLE;
  bool direct = false;  // not by a router
  std::optional<int> interface;
};

Route look_up(const std::string& address) {
  Netlink netlink(NETLINK_ROUTE, "rtnetlink");
  NetlinkMessage message = Netlink::make_message(RTM_GETROUTE, NLM_F_ACK);
  rtmsg body{};
  body.rtm_family = static_cast<unsigned char>(family_of(address));
  body.rtm_dst_len = static_cast<unsigned char>(address.size() * 8);
  append_body(message, body);
  append(message, RTA_DST, address);
  Route found;
  const int code = netlink.try_ask(message, [&](const nlmsghdr& header) {
    if (header.nlmsg_type != RTM_NEWROUTE) return;
    const auto* route = static_cast<const rtmsg*>(nlmsg_data(&header));
    nlattr* attributes[RTA_MAX + 1] = {};
    nlmsg_parse(const_cast<nlmsghdr*>(&header), sizeof *route, attributes, RTA_MAX, nullptr);
    found.type = route->rtm_type;
    found.direct = attributes[RTA_GATEWAY] == nullptr && attributes[RTA_VIA] == nullptr;
    if (attributes[RTA_OIF]) found.interface = static_cast<int>(nla_get_u32(attributes[RTA_OIF]));
  });
  if (code != 0 && code != ENETUNREACH && code != EHOSTUNREACH) {
    throw_errno(code, "look up the route to an address");
  }
  return found;
}

}  // namespace

std::vector<HostAddress> host_addresses() {
  Netlink netlink(NETLINK_ROUTE, "rtnetlink");
  NetlinkMessage message = Netlink::make_message(RTM_GETADDR, NLM_F_DUMP);
  append_body(message, ifaddrmsg{});
  std::vector<HostAddress> found;
  netlink.ask(message, "list addresses", [&](const nlmsghdr& header) {
    if (header.nlmsg_type != RTM_NEWADDR) return;
    const auto* body = static_cast<const ifaddrmsg*>(nlmsg_data(&header));
    nlattr* attributes[IFA_MAX + 1] = {};
    nlmsg_parse(const_cast<nlmsghdr*>(&header), sizeof *body, attributes, IFA_MAX, nullptr);
    HostAddress address;
    address.prefix_length = body->ifa_prefixlen;
    address.interface = static_cast<int>(body->ifa_index);
    address.flags = attributes[IFA_FLAGS] ? nla_get_u32(attributes[IFA_FLAGS]) : body->ifa_flags;
    // On a point-to-point link IFA_ADDRESS is the other end.
    const nlattr* own = attributes[IFA_LOCAL] ? attributes[IFA_LOCAL] : attributes[IFA_ADDRESS];
    if (own == nullptr) return;
    address.address = text_of(own);
    found.push_back(std::move(address));
  });
  return found;
}

void put_host_address(const HostAddress& address, std::uint32_t valid_seconds,
                      std::uint32_t preferred_seconds) {
  put_address(address, IFA_F_NOPREFIXROUTE, valid_seconds, preferred_seconds);
}

void put_host_address_with_route(const HostAddress& address) {
  put_address(address, 0, kForeverSeconds, kForeverSeconds);
}

bool remove_host_address(const HostAddress& address) {
  Netlink netlink(NETLINK_ROUTE, "rtnetlink");
  const NetlinkMessage message = address_message(RTM_DELADDR, 0, address);
  const int code = netlink.try_ask(message, [](const nlmsghdr&) {});
  if (code == EADDRNOTAVAIL) return false;
  if (code != 0) {
    throw_errno(code, fmt::format("remove an address from interface {}", address.interface));
  }
  return true;
}

std::vector<HostInterface> host_interfaces() {
  Netlink netlink(NETLINK_ROUTE, "rtnetlink");
  NetlinkMessage message = Netlink::make_message(RTM_GETLINK, NLM_F_DUMP);
  append_body(message, ifinfomsg{});
  std::vector<HostInterface> found;
  netlink.ask(message, "list interfaces", [&](const nlmsghdr& header) {
    if (header.nlmsg_type != RTM_NEWLINK) return;
    const auto* body = static_cast<const ifinfomsg*>(nlmsg_data(&header));
    nlattr* attributes[IFLA_MAX + 1] = {};
    nlmsg_parse(const_cast<nlmsghdr*>(&header), sizeof *body, attributes, IFLA_MAX, nullptr);
    HostInterface interface;
    interface.index = body->ifi_index;
    interface.loopback = (body->ifi_flags & IFF_LOOPBACK) != 0;
    interface.up = (body->ifi_flags & IFF_UP) != 0;
    if (attributes[IFLA_IFNAME]) interface.name = nla_get_string(attributes[IFLA_IFNAME]);
    if (attributes[IFLA_ADDRESS]) interface.hardware_address = text_of(attributes[IFLA_ADDRESS]);
    interface.ethernet = body->ifi_type == ARPHRD_ETHER &&
                         interface.hardware_address.size() == kEthernetAddressBytes;
    found.push_back(std::move(interface));
  });
  return found;
}

bool is_delivered_here(const std::string& address) { return look_up(address).type == RTN_LOCAL; }

std::optional<int> on_link_interface(const std::string& address) {
  const Route route = look_up(address);
  if (route.type != RTN_UNICAST || !route.direct) return std::nullopt;
  return route.interface;
}

}  // namespace godwit
