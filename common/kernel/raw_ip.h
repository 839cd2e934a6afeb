// Raw sockets that send whole IP packets, source address included (raw(7), IP_HDRINCL).
#pragma once

#include <sys/socket.h>

#include <cstdint>
#include <string_view>

#include "common/base/unique_fd.h"

namespace godwit {

class RawIpSocket {
 public:
  // `family`: AF_INET or AF_INET6. Packets carry `mark`, which nftables rules see on their way out
  // and, over the loopback interface, on their way in. Needs CAP_NET_RAW and CAP_NET_ADMIN. Throws.
  RawIpSocket(int family, std::uint32_t mark);

  // `to`: where it is routed, the packet's destination. Returns 0 or an errno.
  int send(std::string_view packet, const sockaddr* to, socklen_t to_bytes);

 private:
  UniqueFd fd_;
};

}  // namespace godwit
