#include "common/network/packet_replay.h"

#include <netinet/in.h>
#include <netinet/tcp.h>

#include <cerrno>

#include "common/base/error.h"
#include "common/base/log.h"
#include "common/network/ip_packet.h"

namespace godwit {
namespace {

std::optional<RawIpSocket> try_v6_socket() {
  try {
    return RawIpSocket(AF_INET6, kReplayMark);
  } catch (const Error& error) {
    if (error.code() != EAFNOSUPPORT) throw;
    return std::nullopt;
  }
}

}  // namespace

PacketReplay::PacketReplay() : v4_(AF_INET, kReplayMark), v6_(try_v6_socket()) {}

int PacketReplay::try_inject(std::string_view packet) {
  const auto facts = parse_packet(packet);
  if (!facts) return EINVAL;
  const SocketAddress to(facts->destination, 0);
  const std::string_view whole = packet.substr(0, facts->bytes);
  if (facts->destination.family == AF_INET) return v4_.send(whole, to.get(), to.size());
  return v6_ ? v6_->send(whole, to.get(), to.size()) : EAFNOSUPPORT;
}

void PacketReplay::inject(std::string_view packet) {
  if (const int code = try_inject(packet); code != 0) {
    const auto facts = parse_packet(packet);
    throw_errno(code, fmt::format("inject a packet of {} bytes for {}", packet.size(),
                                  facts ? facts->destination.text() : "nobody"));
  }
}

std::size_t PacketReplay::inject_all(std::span<const std::string> packets) {
  std::size_t injected = 0;
  for (const std::string& packet : packets) {
    const int code = try_inject(packet);
    if (code == 0) {
      ++injected;
    } else {
      log_debug("packet not delivered bytes={} cause=\"{}\"", packet.size(), errno_text(code));
    }
  }
  return injected;
}

void prompt_tcp_acknowledgement(PacketReplay& replay, const SocketAddress& local,
                                const SocketAddress& remote, std::uint32_t acknowledged,
                                std::uint32_t send_unacknowledged) {
  TcpSegment old;
  old.sequence = acknowledged - 1;
  old.acknowledgement = send_unacknowledged;
  old.flags = TH_ACK;
  replay.inject(build_tcp_packet(remote, local, old));
}

}  // namespace godwit
