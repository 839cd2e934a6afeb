#include "common/network/endpoints.h"

#include <linux/in6.h>
#include <netinet/in.h>
#include <netinet/tcp.h>

#include <algorithm>
#include <cstring>
#include <iterator>

#include "common/base/error.h"
#include "common/network/ip_packet.h"

namespace godwit {
namespace {

template <typename Socket>
bool only_v6(const Socket& socket) {
  for (const proto::SocketOption& option : socket.options()) {
    if (option.level() != IPPROTO_IPV6 || option.name() != IPV6_V6ONLY) continue;
    return option.value().size() == sizeof(int) && option.value() != std::string(sizeof(int), '\0');
  }
  return false;
}

IpAddress wildcard(int family) {
  IpAddress address;
  address.family = family;
  return address;
}

bool claims(const Endpoint& endpoint, const PacketFacts& facts) {
  if (endpoint.protocol != facts.protocol || endpoint.local_port != facts.destination_port ||
      endpoint.local.family != facts.destination.family) {
    return false;
  }
  if (!endpoint.local.is_wildcard() && endpoint.local != facts.destination) return false;
  return !endpoint.has_remote() ||
         (endpoint.remote == facts.source && endpoint.remote_port == facts.source_port);
}

}  // namespace

void EndpointSet::add_socket(int protocol, const std::string& local, const std::string& remote,
                             bool only_v6, bool listening) {
  if (local.empty()) return;
  const auto local_address = SocketAddress::from_bytes(local);
  if (!local_address) fail("endpoint: malformed local address of {} bytes", local.size());
  if (local_address->port() == 0) return;
  Endpoint endpoint;
  endpoint.protocol = protocol;
  endpoint.local = local_address->ip().unmapped();
  endpoint.local_port = local_address->port();
  endpoint.remote = wildcard(endpoint.local.family);
  endpoint.listening = listening;
  if (!remote.empty()) {
    const auto remote_address = SocketAddress::from_bytes(remote);
    if (!remote_address) fail("endpoint: malformed remote address of {} bytes", remote.size());
    endpoint.remote = remote_address->ip().unmapped();
    endpoint.remote_port = remote_address->port();
  }
  endpoints_.insert(endpoint);
  const bool dual = endpoint.local.family == AF_INET6 && endpoint.local.is_wildcard() && !only_v6 &&
                    !endpoint.has_remote();
  if (!dual) return;
  endpoint.local = endpoint.remote = wildcard(AF_INET);
  endpoints_.insert(endpoint);
}

void EndpointSet::add(const proto::TcpSocket& socket) {
  const bool listening = socket.state() == TCP_LISTEN;
  // A socket in state CLOSE takes no packets.
  if (socket.state() == TCP_CLOSE) return;
  add_socket(IPPROTO_TCP, socket.local_address(), socket.remote_address(), only_v6(socket),
             listening);
}

void EndpointSet::add(const proto::UdpSocket& socket) {
  add_socket(IPPROTO_UDP, socket.local_address(), socket.remote_address(), only_v6(socket), false);
}

EndpointSet EndpointSet::without(const EndpointSet& other) const {
  EndpointSet rest;
  std::set_difference(endpoints_.begin(), endpoints_.end(), other.endpoints_.begin(),
                      other.endpoints_.end(),
                      std::inserter(rest.endpoints_, rest.endpoints_.end()));
  return rest;
}

bool EndpointSet::matches(std::string_view packet) const {
  const auto facts = parse_packet(packet);
  if (!facts || facts->fragment) return false;
  return std::any_of(endpoints_.begin(), endpoints_.end(),
                     [&](const Endpoint& endpoint) { return claims(endpoint, *facts); });
}

std::vector<IpAddress> EndpointSet::local_addresses() const {
  std::set<IpAddress> addresses;
  for (const Endpoint& endpoint : endpoints_) {
    if (!endpoint.local.is_wildcard() && !endpoint.local.is_loopback()) {
      addresses.insert(endpoint.local);
    }
  }
  return {addresses.begin(), addresses.end()};
}

}  // namespace godwit
