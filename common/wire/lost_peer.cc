#include "common/wire/lost_peer.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include "common/base/log.h"

namespace godwit {
namespace {

void set(int socket, int level, int name, int value) {
  if (::setsockopt(socket, level, name, &value, sizeof(value)) != 0) {
    log_debug("socket option {} of level {} was not set", name, level);
  }
}

}  // namespace

void notice_lost_peer(int socket) {
  constexpr int kQuietSeconds = 10;
  constexpr int kProbeSeconds = 5;
  constexpr int kProbes = 4;
  constexpr int kUnansweredMs = 30'000;
  set(socket, IPPROTO_TCP, TCP_KEEPIDLE, kQuietSeconds);
  set(socket, IPPROTO_TCP, TCP_KEEPINTVL, kProbeSeconds);
  set(socket, IPPROTO_TCP, TCP_KEEPCNT, kProbes);
  set(socket, IPPROTO_TCP, TCP_USER_TIMEOUT, kUnansweredMs);
  set(socket, SOL_SOCKET, SO_KEEPALIVE, 1);
}

}  // namespace godwit
