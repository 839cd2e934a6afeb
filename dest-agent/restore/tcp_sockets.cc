#include "dest-agent/restore/tcp_sockets.h"

#include <linux/in6.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <optional>
#include <string_view>
#include <thread>

#include "common/base/clock.h"
#include "common/base/log.h"
#include "common/kernel/socket_options.h"
#include "common/kernel/tcp_repair.h"
#include "common/network/addresses.h"
#include "common/network/ip_packet.h"
#include "common/network/socket_address.h"

namespace godwit {
namespace {

constexpr std::int64_t kInjectionNsMax = 200'000'000;
constexpr std::size_t kReceiveChunkBytes = 32 << 10;
constexpr std::size_t kSmallestChunkBytes = 1024;
constexpr int kRoomyBufferBytes = 64 << 20;
// Milliseconds added to the timestamp clock: its lowest bit was lost in reading it, and a clock
// that stood still or went back would make the peer drop our segments (RFC 7323, PAWS).
constexpr std::uint32_t kTimestampStep = 2;

TcpState state_of(const proto::TcpSocket& socket) { return static_cast<TcpState>(socket.state()); }

std::string describe(const proto::TcpSocket& socket) {
  const auto local = SocketAddress::from_bytes(socket.local_address());
  const auto remote = SocketAddress::from_bytes(socket.remote_address());
  return fmt::format("TCP socket {} - {} {}", local ? local->text() : "unbound",
                     remote ? remote->text() : "*", tcp_state_name(state_of(socket)));
}

SocketAddress address(const std::string& bytes, const char* which) {
  const auto parsed = SocketAddress::from_bytes(bytes);
  if (!parsed) fail("malformed {} address ({} bytes)", which, bytes.size());
  return *parsed;
}

// When in the life of a restored socket an option is set.
enum class OptionTime {
  kPrepare,    // before bind
  kBuffers,    // before connecting; the kernel tunes them all the time
  kConnected,  // needs the connection's own values in place first
  kRelease,    // would disturb the making of the socket
};

OptionTime option_time(const proto::SocketOption& option) {
  const int name = option.name();
  switch (option.level()) {
    case SOL_SOCKET:
      if (name == SO_SNDBUF || name == SO_RCVBUF || name == SO_BUF_LOCK)
        return OptionTime::kBuffers;
      return name == SO_REUSEADDR || name == SO_ATTACH_FILTER || name == SO_PEEK_OFF
                 ? OptionTime::kRelease
                 : OptionTime::kPrepare;
    case IPPROTO_TCP:
      if (name == TCP_WINDOW_CLAMP) return OptionTime::kConnected;
      return name == TCP_CORK || name == TCP_NODELAY ? OptionTime::kRelease : OptionTime::kPrepare;
    case IPPROTO_IP:
      return name == IP_TRANSPARENT || name == IP_FREEBIND ? OptionTime::kConnected
                                                           : OptionTime::kPrepare;
    case IPPROTO_IPV6:
      return name == IPV6_TRANSPARENT || name == IPV6_FREEBIND ? OptionTime::kConnected
                                                               : OptionTime::kPrepare;
    default:
      return OptionTime::kPrepare;
  }
}

void set_congestion_control(int fd, const std::string& name) {
  if (name.empty()) return;
  const int code = try_set_socket_option(fd, {IPPROTO_TCP, TCP_CONGESTION, name});
  if (code == ENOENT || code == EPERM) {
    log_warning("congestion control {} is not available here, the connection takes this host's",
                name);
  } else if (code != 0) {
    throw_errno(code, "setsockopt TCP_CONGESTION " + name);
  }
}

void set_options(int fd, const proto::TcpSocket& socket, OptionTime time) {
  for (const proto::SocketOption& option : socket.options()) {
    if (option_time(option) != time) continue;
    if (option.level() == IPPROTO_TCP && option.name() == TCP_CONGESTION) {
      set_congestion_control(fd, option.value());
      continue;
    }
    set_socket_option(fd, {option.level(), option.name(), option.value()});
  }
}

// Forcing a buffer size locks it against the kernel's own tuning: unlock what was not locked.
void unlock_buffers(int fd, const proto::TcpSocket& socket) {
  std::string locks = int_option_value(0);
  for (const proto::SocketOption& option : socket.options()) {
    if (option.level() == SOL_SOCKET && option.name() == SO_BUF_LOCK) locks = option.value();
  }
  set_socket_option(fd, {SOL_SOCKET, SO_BUF_LOCK, locks});
}

void set_buffers(int fd, const proto::TcpSocket& socket) {
  const bool any =
      std::any_of(socket.options().begin(), socket.options().end(),
                  [](const auto& option) { return option_time(option) == OptionTime::kBuffers; });
  if (!any) return;
  set_options(fd, socket, OptionTime::kBuffers);
  unlock_buffers(fd, socket);
}

// A transparent socket binds to and connects from addresses that are not this host's yet.
void set_transparent(int fd, const proto::TcpSocket& socket, bool on) {
  if (socket.family() == AF_INET6) {
    set_socket_option(fd, {IPPROTO_IPV6, IPV6_TRANSPARENT, int_option_value(on)});
  } else {
    set_socket_option(fd, {IPPROTO_IP, IP_TRANSPARENT, int_option_value(on)});
  }
}

void bind_to(int fd, const SocketAddress& local) {
  if (bind(fd, local.get(), local.size()) == 0) return;
  const int code = errno;
  if (code != EADDRINUSE) throw_errno(code, "bind to " + local.text());
  throw Error(fmt::format("bind to {}: another program here uses this port", local.text()), code,
              "stop the program that listens there, or move to another host");
}

void connect_to(int fd, const SocketAddress& remote) {
  if (connect(fd, remote.get(), remote.size()) != 0) {
    throw_system("connect in repair mode to {}", remote.text());
  }
}

// By its state: a description that was made ahead has no stream yet.
bool keeps_repair(const proto::TcpSocket& socket) {
  return has_tcp_stream(state_of(socket)) || socket.has_dead();
}

// Writes all of it, into roomier buffers if the socket's own don't hold it: the same bytes may need
// more memory here than in the packets they came in.
void fill_queue(int fd, TcpQueueSide side, std::string_view bytes) {
  const int buffer = side == TcpQueueSide::kSend ? SO_SNDBUF : SO_RCVBUF;
  std::optional<std::string> own_size;
  std::optional<std::string> own_locks;
  select_tcp_queue(fd, side);
  std::size_t chunk = side == TcpQueueSide::kSend ? bytes.size() : kReceiveChunkBytes;
  while (!bytes.empty()) {
    const std::size_t taken = append_tcp_queue(fd, bytes.substr(0, chunk));
    bytes.remove_prefix(taken);
    if (taken > 0) continue;
    if (!own_size) {
      own_size = int_option_value(int_socket_option(fd, SOL_SOCKET, buffer));
      own_locks = int_option_value(int_socket_option(fd, SOL_SOCKET, SO_BUF_LOCK));
      set_socket_option(fd, {SOL_SOCKET, buffer, int_option_value(kRoomyBufferBytes)});
    } else if (chunk > kSmallestChunkBytes) {
      chunk /= 2;
    } else {
      fail("{} bytes do not fit into the {} queue", bytes.size(),
           side == TcpQueueSide::kSend ? "send" : "receive");
    }
  }
  if (own_size) {
    set_socket_option(fd, {SOL_SOCKET, buffer, *own_size});
    set_socket_option(fd, {SOL_SOCKET, SO_BUF_LOCK, *own_locks});
  }
}

TcpWindow restored_window(const proto::TcpSocket& socket) {
  const proto::TcpStream& stream = socket.stream();
  TcpWindow window;
  window.send_seq = stream.window_send_seq();
  window.send = stream.window_send();
  window.max = stream.window_max();
  window.receive = stream.window_receive();
  window.receive_update = stream.window_receive_update();
  if (!peer_fin_received(state_of(socket))) return window;
  // The FIN comes again behind the queue: it is not acknowledged yet and needs room of one byte.
  const std::uint32_t next = stream.receive().sequence();
  const std::uint32_t edge = window.receive_update + window.receive;
  if (static_cast<std::int32_t>(window.receive_update - next) > 0) window.receive_update = next;
  const bool room = static_cast<std::int32_t>(edge - next) > 0;
  window.receive = (room ? edge : next + 1) - window.receive_update;
  if (static_cast<std::int32_t>(window.send_seq - next) > 0) window.send_seq = next;
  return window;
}

void restore_negotiated(int fd, const proto::TcpStream& stream) {
  TcpNegotiated negotiated;
  negotiated.mss_clamp = stream.mss_clamp();
  negotiated.sack = stream.sack();
  negotiated.timestamps = stream.timestamps();
  negotiated.window_scaling = stream.window_scaling();
  negotiated.send_scale = static_cast<std::uint8_t>(stream.send_scale());
  negotiated.receive_scale = static_cast<std::uint8_t>(stream.receive_scale());
  set_tcp_negotiated(fd, negotiated);
  set_stream_timestamp(fd, stream);
}

void restore_stream(int fd, const proto::TcpSocket& socket) {
  const proto::TcpStream& stream = socket.stream();
  const std::string& send_bytes = stream.send().bytes();
  if (stream.unsent_bytes() > send_bytes.size()) fail("more unsent bytes than bytes");
  const auto receive_bytes = static_cast<std::uint32_t>(stream.receive().bytes().size());
  select_tcp_queue(fd, TcpQueueSide::kReceive);
  set_tcp_queue_sequence(fd, stream.receive().sequence() - receive_bytes);
  select_tcp_queue(fd, TcpQueueSide::kSend);
  set_tcp_queue_sequence(fd,
                         stream.send().sequence() - static_cast<std::uint32_t>(send_bytes.size()));
  // Most connections go on with what a new socket has.
  if (stream.congestion_control() != tcp_congestion_of_new_sockets(socket.family())) {
    set_congestion_control(fd, stream.congestion_control());
  }
  connect_to(fd, address(socket.remote_address(), "remote"));
  restore_negotiated(fd, stream);
  const std::size_t sent = send_bytes.size() - stream.unsent_bytes();
  if (receive_bytes > 0) fill_queue(fd, TcpQueueSide::kReceive, stream.receive().bytes());
  if (sent > 0) {
    fill_queue(fd, TcpQueueSide::kSend, std::string_view(send_bytes).substr(0, sent));
    if (const TcpQueueLengths now = tcp_queue_lengths(fd); now.unsent != 0) {
      fail("{} bytes of the send queue still count as unsent", now.unsent);
    }
  }
  if (stream.has_window()) set_tcp_window(fd, restored_window(socket));
}

// Something to be connected to for a connection that is over: only its own state will be seen.
SocketAddress stand_in_peer(const SocketAddress& local, std::uint64_t inode, int attempt) {
  constexpr std::uint64_t kPorts = 60000;
  const auto port =
      static_cast<std::uint16_t>(1024 + (inode + static_cast<std::uint64_t>(attempt)) % kPorts);
  return {local.ip(), port == local.port() ? std::uint16_t{1023} : port};
}

// What the socket of a connection that is over is bound to: its end is told to it by a packet,
// which comes only to an address that is here.
SocketAddress local_of_dead(const proto::TcpSocket& socket) {
  const SocketAddress local = address(socket.local_address(), "local");
  if (!socket.dead().alone() || has_address(local.ip().unmapped())) return local;
  const bool mapped = local.ip().unmapped() != local.ip();
  const char* loopback = mapped ? "::ffff:127.0.0.1" : "::1";
  return {*IpAddress::from_text(socket.family() == AF_INET ? "127.0.0.1" : loopback), local.port()};
}

SocketAddress bound_address(int fd) {
  const auto local = SocketAddress::local_of(fd);
  if (!local) fail("not bound");
  return *local;
}

void restore_dead(int fd, const proto::TcpSocket& socket) {
  constexpr int kAttempts = 100;
  const SocketAddress local = bound_address(fd);
  for (int attempt = 0;; ++attempt) {
    const SocketAddress peer = stand_in_peer(local, socket.inode(), attempt);
    if (connect(fd, peer.get(), peer.size()) == 0) break;
    if (errno != EADDRNOTAVAIL || attempt == kAttempts) throw_system("connect to {}", peer.text());
  }
  if (!socket.dead().unread().empty()) {
    fill_queue(fd, TcpQueueSide::kReceive, socket.dead().unread());
  }
}

// Waits until a packet that was injected has done its work.
template <typename Done>
void await_effect(const char* what, Done done) {
  const std::int64_t deadline = monotonic_ns() + kInjectionNsMax;
  while (!done()) {
    if (monotonic_ns() > deadline) {
      throw Error(fmt::format("{} did not arrive at the socket", what), 0,
                  "a firewall rule of this host may drop packets on the loopback interface");
    }
    std::this_thread::yield();
  }
}

void inject_peer_fin(int fd, const proto::TcpSocket& socket, PacketReplay& replay) {
  const proto::TcpStream& stream = socket.stream();
  TcpSegment fin;
  fin.sequence = stream.receive().sequence();
  fin.acknowledgement =
      stream.send().sequence() - static_cast<std::uint32_t>(stream.send().bytes().size());
  fin.flags = TH_FIN | TH_ACK;
  const std::uint32_t scaled =
      stream.window_send() >> (stream.window_scaling() ? stream.send_scale() : 0);
  fin.window = static_cast<std::uint16_t>(std::min<std::uint32_t>(scaled, 0xffff));
  const TcpState before = tcp_facts(fd).state;
  replay.inject(build_tcp_packet(address(socket.remote_address(), "remote"),
                                 address(socket.local_address(), "local"), fin));
  await_effect("the peer's FIN", [&] { return tcp_facts(fd).state != before; });
}

void send_unsent(int fd, const proto::TcpStream& stream) {
  if (stream.unsent_bytes() == 0) return;
  std::string_view unsent = stream.send().bytes();
  unsent.remove_prefix(unsent.size() - stream.unsent_bytes());
  const std::string size = int_option_value(int_socket_option(fd, SOL_SOCKET, SO_SNDBUF));
  bool roomy = false;
  while (!unsent.empty()) {
    const std::size_t taken = append_tcp_queue(fd, unsent);
    unsent.remove_prefix(taken);
    if (taken > 0) continue;
    if (roomy) fail("{} unsent bytes do not fit into the send buffer", unsent.size());
    set_socket_option(fd, {SOL_SOCKET, SO_SNDBUF, int_option_value(kRoomyBufferBytes)});
    roomy = true;
  }
  if (roomy) set_socket_option(fd, {SOL_SOCKET, SO_SNDBUF, size});
}

// Nobody waits for a word of this connection: what it sends next will say all.
bool may_stay_silent(const proto::TcpSocket& socket) {
  return state_of(socket) == TcpState::kEstablished && socket.stream().quiet() &&
         socket.stream().unsent_bytes() == 0 && !socket.stream().receive_shutdown();
}

void release_stream(int fd, const proto::TcpSocket& socket, PacketReplay& replay) {
  if (may_stay_silent(socket)) {
    leave_tcp_repair(fd, false);
    set_options(fd, socket, OptionTime::kRelease);
    return;
  }
  const TcpState state = state_of(socket);
  const bool peer_fin_first = state == TcpState::kCloseWait || state == TcpState::kLastAck;
  if (peer_fin_first) inject_peer_fin(fd, socket, replay);
  // The probe makes the peer say at once what it has of our bytes.
  leave_tcp_repair(fd, !socket.stream().send().bytes().empty());
  set_options(fd, socket, OptionTime::kRelease);
  send_unsent(fd, socket.stream());
  // The FIN has the number it had before: for a peer that has it already it is a retransmission.
  if (own_fin_queued(state) && shutdown(fd, SHUT_WR) != 0) throw_system("shutdown for writing");
  if (state == TcpState::kClosing) inject_peer_fin(fd, socket, replay);
  if (socket.stream().receive_shutdown() && shutdown(fd, SHUT_RD) != 0) {
    throw_system("shutdown for reading");
  }
  unlock_buffers(fd, socket);
}

bool same_option(const proto::SocketOption& a, const proto::SocketOption& b) {
  return a.level() == b.level() && a.name() == b.name() && a.value() == b.value();
}

void release_dead(int fd, const proto::TcpSocket& socket, PacketReplay& replay) {
  const auto peer = SocketAddress::remote_of(fd);
  if (!peer) fail("not connected to its stand-in");
  select_tcp_queue(fd, TcpQueueSide::kReceive);
  TcpSegment reset;
  reset.sequence = tcp_queue_sequence(fd);
  reset.flags = TH_RST;
  replay.inject(build_tcp_packet(*peer, bound_address(fd), reset));
  await_effect("a reset", [&] { return tcp_facts(fd).state == TcpState::kClose; });
  leave_tcp_repair(fd, false);
  set_options(fd, socket, OptionTime::kRelease);
  unlock_buffers(fd, socket);
  // Reading the error takes it away.
  if (!socket.dead().error()) int_socket_option(fd, SOL_SOCKET, SO_ERROR);
}

}  // namespace

bool same_prepared(const proto::TcpSocket& prepared, const proto::TcpSocket& wanted) {
  if (prepared.inode() != wanted.inode() || keeps_repair(prepared) != keeps_repair(wanted) ||
      prepared.local_address() != wanted.local_address() ||
      prepared.remote_address() != wanted.remote_address()) {
    return false;
  }
  // The options of before bind, in the order of both lists.
  const auto next = [](auto at, const proto::TcpSocket& socket) {
    return std::find_if(at, socket.options().end(), [](const auto& option) {
      return option_time(option) == OptionTime::kPrepare;
    });
  };
  auto have = next(prepared.options().begin(), prepared);
  auto want = next(wanted.options().begin(), wanted);
  while (have != prepared.options().end() && want != wanted.options().end()) {
    if (!same_option(*have, *want)) return false;
    have = next(std::next(have), prepared);
    want = next(std::next(want), wanted);
  }
  return have == prepared.options().end() && want == wanted.options().end();
}

UniqueFd prepare_tcp_socket(const proto::TcpSocket& socket) {
  return in_context(
      [&] {
        UniqueFd fd(::socket(socket.family(), SOCK_STREAM | SOCK_CLOEXEC, IPPROTO_TCP));
        if (!fd.valid()) throw_system("socket");
        if (fchown(fd.get(), socket.owner_uid(), socket.owner_gid()) != 0) throw_system("fchown");
        set_options(fd.get(), socket, OptionTime::kPrepare);
        if (keeps_repair(socket)) {
          enter_tcp_repair(fd.get());
        } else {
          // Connections on the same port are restored before or after it.
          set_socket_option(fd.get(), {SOL_SOCKET, SO_REUSEADDR, int_option_value(1)});
        }
        set_transparent(fd.get(), socket, true);
        if (!socket.local_address().empty()) {
          bind_to(fd.get(), socket.has_dead() ? local_of_dead(socket)
                                              : address(socket.local_address(), "local"));
        }
        return fd;
      },
      "{}", describe(socket));
}

void finish_tcp_socket(int fd, const proto::TcpSocket& socket) {
  in_context(
      [&] {
        set_buffers(fd, socket);
        if (socket.has_stream()) restore_stream(fd, socket);
        if (socket.has_dead()) restore_dead(fd, socket);
        if (state_of(socket) == TcpState::kListen && listen(fd, socket.backlog()) != 0) {
          throw_system("listen");
        }
        set_transparent(fd, socket, false);
        set_options(fd, socket, OptionTime::kConnected);
      },
      "{}", describe(socket));
}

// In repair mode the kernel sends no reset, and keeps the address and port that were bound.
void reset_tcp_socket(int fd, const proto::TcpSocket& socket) {
  in_context(
      [&] {
        sockaddr nobody{};
        nobody.sa_family = AF_UNSPEC;
        if (connect(fd, &nobody, sizeof nobody) != 0) throw_system("take the connection back");
        int_socket_option(fd, SOL_SOCKET, SO_ERROR);  // ECONNABORTED; reading takes it away
        set_transparent(fd, socket, true);
      },
      "{}", describe(socket));
}

void set_stream_timestamp(int fd, const proto::TcpStream& stream) {
  if (stream.timestamps()) set_tcp_timestamp(fd, stream.timestamp() + kTimestampStep);
}

void correct_tcp_socket(int fd, const proto::SocketCorrection& correction) {
  for (const proto::SocketOption& option : correction.options()) {
    set_socket_option(fd, {option.level(), option.name(), option.value()});
  }
  if (correction.backlog() > 0 && listen(fd, correction.backlog()) != 0) {
    throw_system("listen with a backlog of {}", correction.backlog());
  }
}

void prompt_tcp_socket(const proto::TcpSocket& socket, PacketReplay& replay) {
  const TcpState state = state_of(socket);
  if (!socket.has_stream() || may_stay_silent(socket) || peer_fin_received(state)) return;
  const proto::TcpQueue& queued = socket.stream().send();
  prompt_tcp_acknowledgement(replay, address(socket.local_address(), "local"),
                             address(socket.remote_address(), "remote"),
                             socket.stream().window_receive_update(),
                             queued.sequence() - static_cast<std::uint32_t>(queued.bytes().size()));
}

void release_tcp_socket(int fd, const proto::TcpSocket& socket, PacketReplay& replay) {
  in_context(
      [&] {
        if (socket.has_stream()) return release_stream(fd, socket, replay);
        if (socket.has_dead()) return release_dead(fd, socket, replay);
        set_socket_option(fd, {SOL_SOCKET, SO_REUSEADDR, int_option_value(0)});
        set_options(fd, socket, OptionTime::kRelease);
      },
      "{}", describe(socket));
}

}  // namespace godwit
