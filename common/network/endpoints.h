// EndpointSet: which packets belong to the sockets of a process.
#pragma once

#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "common/network/socket_address.h"
#include "proto/tcp_sockets.pb.h"
#include "proto/udp_sockets.pb.h"

namespace godwit {

// One socket's claim on packets. Addresses are unmapped: IPv4 packets to a mapped IPv6 socket are
// IPv4 here. A dual-stack wildcard makes two endpoints.
struct Endpoint {
  int protocol = 0;  // IPPROTO_TCP, IPPROTO_UDP
  IpAddress local;   // the wildcard: any address of the host
  std::uint16_t local_port = 0;
  IpAddress remote;  // the wildcard with port 0: any peer
  std::uint16_t remote_port = 0;
  bool listening = false;

  bool has_remote() const { return remote_port != 0; }
  friend auto operator<=>(const Endpoint&, const Endpoint&) = default;
};

class EndpointSet {
 public:
  void add(const proto::TcpSocket& socket);
  void add(const proto::UdpSocket& socket);
  void add(const Endpoint& endpoint) { endpoints_.insert(endpoint); }

  const std::set<Endpoint>& all() const { return endpoints_; }
  bool empty() const { return endpoints_.empty(); }
  // Those that are not in `other`.
  EndpointSet without(const EndpointSet& other) const;

  // Is this whole IP packet, coming in, one for these sockets? Fragments never match.
  bool matches(std::string_view packet) const;

  // Local addresses that sockets are bound to or connected from, without wildcards and loopback:
  // those that have to move along.
  std::vector<IpAddress> local_addresses() const;

 private:
  void add_socket(int protocol, const std::string& local, const std::string& remote, bool only_v6,
                  bool listening);

  std::set<Endpoint> endpoints_;
};

}  // namespace godwit
