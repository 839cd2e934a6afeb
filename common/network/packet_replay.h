// PacketReplay: puts whole IP packets into the local stack as if they had just arrived.
//
// How: a raw socket with the packet's own header; its destination is an address of this host, so it
// is routed to the loopback interface and comes back in with the client's address as its source.
// The loopback packet keeps the route of its way out, so rp_filter does not look at it. Packets
// carry kReplayMark, by which PacketHold's rules let them pass. What is delivered is delivered
// before inject() returns, but for a busy machine's deferred softirqs: wait for the effect where it
// matters.
//
// Not reached this way: sockets bound to an interface (SO_BINDTODEVICE), as packets come in by
// `lo`.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/kernel/raw_ip.h"
#include "common/network/socket_address.h"

namespace godwit {

inline constexpr std::uint32_t kReplayMark = 0x60d317;

class PacketReplay {
 public:
  // Opens raw sockets in the calling thread's network namespace. Throws Error.
  PacketReplay();

  // Injects one packet; throws Error naming its addresses, for example when the destination is not
  // an address of this host.
  void inject(std::string_view packet);

  // Injects all, in order; those the kernel refuses are left out. Returns how many.
  std::size_t inject_all(std::span<const std::string> packets);

 private:
  int try_inject(std::string_view packet);

  RawIpSocket v4_;
  std::optional<RawIpSocket> v6_;  // none: no IPv6 in this kernel
};

// Makes the TCP socket here with these addresses acknowledge at once what it has: the peer is shown
// to have sent an old segment again. (A window probe would not do: a peer takes no acknowledgement
// from a segment that lies before what it expects.) `acknowledged` is the sequence number that our
// last window update stood for (TcpWindow::receive_update).
void prompt_tcp_acknowledgement(PacketReplay& replay, const SocketAddress& local,
                                const SocketAddress& remote, std::uint32_t acknowledged,
                                std::uint32_t send_unacknowledged);

}  // namespace godwit
