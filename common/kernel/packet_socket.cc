#include "common/kernel/packet_socket.h"

#include <linux/if_packet.h>
#include <sys/socket.h>

#include "common/base/error.h"

namespace godwit {

// Protocol 0: not a tap, so it costs the receiving path nothing.
FrameSender::FrameSender(int interface)
    : fd_(socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0)), interface_(interface) {
  if (!fd_.valid()) throw_system("packet socket");
  sockaddr_ll address{};
  address.sll_family = AF_PACKET;
  address.sll_ifindex = interface;
  if (bind(fd_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    throw_system("packet socket on interface {}", interface);
  }
}

void FrameSender::send(std::string_view frame) {
  if (::send(fd_.get(), frame.data(), frame.size(), MSG_NOSIGNAL) < 0) {
    throw_system("send a frame of {} bytes on interface {}", frame.size(), interface_);
  }
}

}  // namespace godwit
