#include "source-agent/destination.h"

#include <netdb.h>
#include <poll.h>
#include <sys/socket.h>

#include <memory>

#include "common/base/clock.h"
#include "common/base/error.h"
#include "common/wire/lost_peer.h"
#include "common/wire/preface.h"
#include "common/wire/prompt_messages.h"

namespace godwit {
namespace {

constexpr std::int64_t kConnectTimeoutNs = 5'000'000'000;
// As long as a dest-agent gives: a host that has answered may be a busy one.
constexpr std::int64_t kHandshakeTimeoutNs = 10'000'000'000;

Error unreachable(const HostPort& endpoint, const std::string& why, int code) {
  return Error(fmt::format("destination {}: {}", endpoint.text(), why), code,
               "check the address, that dest-agent runs there, and that no firewall is between");
}

// Waits for a connect(2) in progress; returns its outcome as an errno value.
int await_connect(int socket, std::int64_t deadline_ns) {
  pollfd wait{socket, POLLOUT, 0};
  for (;;) {
    const std::int64_t left_ms = (deadline_ns - monotonic_ns()) / 1'000'000;
    if (left_ms <= 0) return ETIMEDOUT;
    const int ready = ::poll(&wait, 1, static_cast<int>(left_ms));
    if (ready < 0 && errno == EINTR) continue;
    if (ready < 0) return errno;
    if (ready > 0) break;
  }
  int outcome = 0;
  socklen_t size = sizeof(outcome);
  ::getsockopt(socket, SOL_SOCKET, SO_ERROR, &outcome, &size);
  return outcome;
}

}  // namespace

UniqueFd connect_to(const HostPort& endpoint, std::int64_t deadline_ns) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  const int failed =
      ::getaddrinfo(endpoint.host.c_str(), std::to_string(endpoint.port).c_str(), &hints, &found);
  if (failed != 0) throw unreachable(endpoint, ::gai_strerror(failed), 0);
  const std::unique_ptr<addrinfo, decltype(&::freeaddrinfo)> owner(found, &::freeaddrinfo);
  int code = 0;
  for (const addrinfo* each = found; each != nullptr; each = each->ai_next) {
    UniqueFd socket(::socket(each->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (!socket.valid()) throw_system("socket");
    do_not_pace(socket.get());
    code = 0;
    if (::connect(socket.get(), each->ai_addr, each->ai_addrlen) != 0) code = errno;
    if (code == EINPROGRESS) code = await_connect(socket.get(), deadline_ns);
    if (code == 0) {
      const int flags = ::fcntl(socket.get(), F_GETFL);
      ::fcntl(socket.get(), F_SETFL, flags & ~O_NONBLOCK);
      return socket;
    }
  }
  throw unreachable(endpoint, errno_text(code), code);
}

Channel connect_control(const HostPort& endpoint, const KeyFolder& keys,
                        const std::string& migration_id, ConnectionKind kind) {
  UniqueFd socket = connect_to(endpoint, monotonic_ns() + kConnectTimeoutNs);
  return in_context(
      [&] {
        notice_lost_peer(socket.get());
        give_room_for_messages(socket.get());
        send_preface(socket.get(), {kind, migration_id});
        return Channel(TlsStream::connect(std::move(socket), to_tls_material(keys),
                                          monotonic_ns() + kHandshakeTimeoutNs));
      },
      "destination {}", endpoint.text());
}

UniqueFd connect_pages(const HostPort& endpoint, const std::string& migration_id,
                       ConnectionKind kind) {
  UniqueFd socket = connect_to(endpoint, monotonic_ns() + kConnectTimeoutNs);
  send_preface(socket.get(), {kind, migration_id});
  return socket;
}

}  // namespace godwit
