#include "common/wire/prompt_messages.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <string_view>

#include "common/base/log.h"

namespace godwit {

void do_not_pace(int socket) {
  for (const std::string_view name : {"cubic", "reno"}) {
    if (::setsockopt(socket, IPPROTO_TCP, TCP_CONGESTION, name.data(),
                     static_cast<socklen_t>(name.size())) == 0) {
      return;
    }
  }
  log_debug("a connection keeps this host's congestion control");
}

void give_room_for_messages(int socket) {
  constexpr int kRoomBytes = 1 << 20;
  if (::setsockopt(socket, SOL_SOCKET, SO_SNDBUFFORCE, &kRoomBytes, sizeof(kRoomBytes)) != 0 &&
      ::setsockopt(socket, SOL_SOCKET, SO_SNDBUF, &kRoomBytes, sizeof(kRoomBytes)) != 0) {
    log_debug("a connection's send buffer stays as it is");
  }
}

}  // namespace godwit
