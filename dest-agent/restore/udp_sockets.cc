#include "dest-agent/restore/udp_sockets.h"

#include <linux/in6.h>
#include <linux/udp.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <cerrno>

#include "common/kernel/socket_options.h"
#include "common/network/ip_packet.h"
#include "common/network/socket_address.h"

namespace godwit {
namespace {

constexpr int kRoomyBufferBytes = 64 << 20;

std::string describe(const proto::UdpSocket& socket) {
  const auto local = SocketAddress::from_bytes(socket.local_address());
  return fmt::format("UDP socket {}", local ? local->text() : "unbound");
}

SocketAddress address(const std::string& bytes, const char* which) {
  const auto parsed = SocketAddress::from_bytes(bytes);
  if (!parsed) fail("malformed {} address ({} bytes)", which, bytes.size());
  return *parsed;
}

// Would keep the queue from being filled, or change how.
bool is_late(const proto::SocketOption& option) {
  const int name = option.name();
  if (option.level() == SOL_SOCKET) {
    return name == SO_ATTACH_FILTER || name == SO_PEEK_OFF || name == SO_BINDTODEVICE ||
           name == SO_SNDBUF || name == SO_RCVBUF || name == SO_BUF_LOCK;
  }
  return option.level() == IPPROTO_UDP && name == UDP_CORK;
}

// Set while the socket is bound to addresses that are not here yet.
bool is_transparency(const proto::SocketOption& option) {
  return (option.level() == IPPROTO_IP && option.name() == IP_TRANSPARENT) ||
         (option.level() == IPPROTO_IPV6 && option.name() == IPV6_TRANSPARENT);
}

template <typename Wanted>
void set_options(int fd, const proto::UdpSocket& socket, Wanted wanted) {
  for (const proto::SocketOption& option : socket.options()) {
    if (wanted(option)) set_socket_option(fd, {option.level(), option.name(), option.value()});
  }
}

void set_transparent(int fd, const proto::UdpSocket& socket, bool on) {
  if (socket.family() == AF_INET6) {
    set_socket_option(fd, {IPPROTO_IPV6, IPV6_TRANSPARENT, int_option_value(on)});
  } else {
    set_socket_option(fd, {IPPROTO_IP, IP_TRANSPARENT, int_option_value(on)});
  }
}

void bind_and_connect(int fd, const proto::UdpSocket& socket) {
  if (!socket.local_address().empty()) {
    const SocketAddress local = address(socket.local_address(), "local");
    if (bind(fd, local.get(), local.size()) != 0) {
      const int code = errno;
      throw Error(fmt::format("bind to {}: {}", local.text(), errno_text(code)), code,
                  code == EADDRINUSE ? "stop the program here that uses this port" : "");
    }
  }
  if (!socket.remote_address().empty()) {
    const SocketAddress remote = address(socket.remote_address(), "remote");
    if (connect(fd, remote.get(), remote.size()) != 0) throw_system("connect to {}", remote.text());
  }
}

void fill_queue(const proto::UdpSocket& socket, PacketReplay& replay) {
  for (const proto::Datagram& datagram : socket.queue()) {
    SocketAddress to = address(socket.local_address(), "local");
    if (!datagram.destination_address().empty()) {
      to = address(datagram.destination_address(), "destination");
    }
    replay.inject(
        build_udp_packet(address(datagram.source_address(), "source"), to, datagram.payload()));
  }
}

// As the kernel keeps them: forcing a size locks it, so the locks come last.
void set_buffers(int fd, const proto::UdpSocket& socket) {
  const auto is_size = [](int name) { return name == SO_SNDBUF || name == SO_RCVBUF; };
  std::string locks = int_option_value(0);
  for (const proto::SocketOption& option : socket.options()) {
    if (option.level() != SOL_SOCKET) continue;
    if (is_size(option.name())) {
      set_socket_option(fd, {option.level(), option.name(), option.value()});
    } else if (option.name() == SO_BUF_LOCK) {
      locks = option.value();
    }
  }
  set_socket_option(fd, {SOL_SOCKET, SO_BUF_LOCK, locks});
}

}  // namespace

UniqueFd prepare_udp_socket(const proto::UdpSocket& socket) {
  return in_context(
      [&] {
        UniqueFd fd(::socket(socket.family(), SOCK_DGRAM | SOCK_CLOEXEC, IPPROTO_UDP));
        if (!fd.valid()) throw_system("socket");
        if (fchown(fd.get(), socket.owner_uid(), socket.owner_gid()) != 0) throw_system("fchown");
        set_options(fd.get(), socket, [](const proto::SocketOption& option) {
          return !is_late(option) && !is_transparency(option);
        });
        set_transparent(fd.get(), socket, true);
        bind_and_connect(fd.get(), socket);
        return fd;
      },
      "{}", describe(socket));
}

void finish_udp_socket(int fd, const proto::UdpSocket& socket) {
  in_context(
      [&] {
        set_transparent(fd, socket, false);
        set_options(fd, socket, is_transparency);
        set_buffers(fd, socket);
      },
      "{}", describe(socket));
}

void release_udp_socket(int fd, const proto::UdpSocket& socket, PacketReplay& replay) {
  in_context(
      [&] {
        if (socket.queue_size() > 0) {
          // The same datagrams may take more room than they did.
          const std::string usual = int_option_value(int_socket_option(fd, SOL_SOCKET, SO_RCVBUF));
          set_socket_option(fd, {SOL_SOCKET, SO_RCVBUF, int_option_value(kRoomyBufferBytes)});
          fill_queue(socket, replay);
          set_socket_option(fd, {SOL_SOCKET, SO_RCVBUF, usual});
          set_buffers(fd, socket);  // the locks again
        }
        set_options(fd, socket, [](const proto::SocketOption& option) {
          const int name = option.name();
          const bool buffer = option.level() == SOL_SOCKET &&
                              (name == SO_SNDBUF || name == SO_RCVBUF || name == SO_BUF_LOCK);
          return is_late(option) && !buffer;
        });
      },
      "{}", describe(socket));
}

}  // namespace godwit
