#include "common/kernel/socket_options.h"

#include <linux/filter.h>
#include <linux/in6.h>
#include <linux/tcp.h>
#include <linux/udp.h>
#include <netinet/in.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <map>
#include <tuple>

#include "common/base/error.h"
#include "common/base/unique_fd.h"

namespace godwit {
namespace {

// Some mean nothing to a stream: what they ask for comes with datagrams.
enum class OptionUse { kAny, kDatagram };

struct KnownOption {
  int level;
  int name;
  std::string_view label;
  OptionUse use = OptionUse::kAny;
};

// Newer than the headers of some builders.
constexpr int kIpLocalPortRange = 51;
constexpr unsigned long kGetSocketNamespace = 0x894C;  // SIOCGSKNS

constexpr KnownOption kKnown[] = {
    {SOL_SOCKET, SO_REUSEADDR, "SO_REUSEADDR"},
    {SOL_SOCKET, SO_REUSEPORT, "SO_REUSEPORT"},
    {SOL_SOCKET, SO_KEEPALIVE, "SO_KEEPALIVE"},
    {SOL_SOCKET, SO_BROADCAST, "SO_BROADCAST", OptionUse::kDatagram},
    {SOL_SOCKET, SO_OOBINLINE, "SO_OOBINLINE"},
    {SOL_SOCKET, SO_LINGER, "SO_LINGER"},
    {SOL_SOCKET, SO_PRIORITY, "SO_PRIORITY"},
    {SOL_SOCKET, SO_MARK, "SO_MARK"},
    {SOL_SOCKET, SO_DONTROUTE, "SO_DONTROUTE"},
    {SOL_SOCKET, SO_DEBUG, "SO_DEBUG"},
    {SOL_SOCKET, SO_RCVLOWAT, "SO_RCVLOWAT"},
    {SOL_SOCKET, SO_RCVTIMEO, "SO_RCVTIMEO"},
    {SOL_SOCKET, SO_SNDTIMEO, "SO_SNDTIMEO"},
    {SOL_SOCKET, SO_TIMESTAMP, "SO_TIMESTAMP"},
    {SOL_SOCKET, SO_TIMESTAMPNS, "SO_TIMESTAMPNS"},
    {SOL_SOCKET, SO_TIMESTAMPING, "SO_TIMESTAMPING"},
    {SOL_SOCKET, SO_RXQ_OVFL, "SO_RXQ_OVFL", OptionUse::kDatagram},
    {SOL_SOCKET, SO_NO_CHECK, "SO_NO_CHECK", OptionUse::kDatagram},
    {SOL_SOCKET, SO_SELECT_ERR_QUEUE, "SO_SELECT_ERR_QUEUE"},
    {SOL_SOCKET, SO_BUSY_POLL, "SO_BUSY_POLL"},
    {SOL_SOCKET, SO_ZEROCOPY, "SO_ZEROCOPY"},
    {SOL_SOCKET, SO_MAX_PACING_RATE, "SO_MAX_PACING_RATE"},
    {SOL_SOCKET, SO_PEEK_OFF, "SO_PEEK_OFF"},
    {SOL_SOCKET, SO_BINDTODEVICE, "SO_BINDTODEVICE"},
    {SOL_SOCKET, SO_SNDBUF, "SO_SNDBUF"},
    {SOL_SOCKET, SO_RCVBUF, "SO_RCVBUF"},
    {SOL_SOCKET, SO_BUF_LOCK, "SO_BUF_LOCK"},
    {IPPROTO_TCP, TCP_NODELAY, "TCP_NODELAY"},
    {IPPROTO_TCP, TCP_CORK, "TCP_CORK"},
    {IPPROTO_TCP, TCP_KEEPIDLE, "TCP_KEEPIDLE"},
    {IPPROTO_TCP, TCP_KEEPINTVL, "TCP_KEEPINTVL"},
    {IPPROTO_TCP, TCP_KEEPCNT, "TCP_KEEPCNT"},
    {IPPROTO_TCP, TCP_SYNCNT, "TCP_SYNCNT"},
    {IPPROTO_TCP, TCP_LINGER2, "TCP_LINGER2"},
    {IPPROTO_TCP, TCP_DEFER_ACCEPT, "TCP_DEFER_ACCEPT"},
    {IPPROTO_TCP, TCP_WINDOW_CLAMP, "TCP_WINDOW_CLAMP"},
    {IPPROTO_TCP, TCP_USER_TIMEOUT, "TCP_USER_TIMEOUT"},
    {IPPROTO_TCP, TCP_NOTSENT_LOWAT, "TCP_NOTSENT_LOWAT"},
    {IPPROTO_TCP, TCP_FASTOPEN, "TCP_FASTOPEN"},
    {IPPROTO_TCP, TCP_FASTOPEN_CONNECT, "TCP_FASTOPEN_CONNECT"},
    {IPPROTO_TCP, TCP_FASTOPEN_NO_COOKIE, "TCP_FASTOPEN_NO_COOKIE"},
    {IPPROTO_TCP, TCP_THIN_LINEAR_TIMEOUTS, "TCP_THIN_LINEAR_TIMEOUTS"},
    {IPPROTO_TCP, TCP_SAVE_SYN, "TCP_SAVE_SYN"},
    {IPPROTO_TCP, TCP_INQ, "TCP_INQ"},
    {IPPROTO_TCP, TCP_TX_DELAY, "TCP_TX_DELAY"},
    {IPPROTO_TCP, TCP_MAXSEG, "TCP_MAXSEG"},
    {IPPROTO_TCP, TCP_CONGESTION, "TCP_CONGESTION"},
    {IPPROTO_UDP, UDP_CORK, "UDP_CORK"},
    {IPPROTO_UDP, UDP_NO_CHECK6_TX, "UDP_NO_CHECK6_TX"},
    {IPPROTO_UDP, UDP_NO_CHECK6_RX, "UDP_NO_CHECK6_RX"},
    {IPPROTO_UDP, UDP_SEGMENT, "UDP_SEGMENT"},
    {IPPROTO_UDP, UDP_GRO, "UDP_GRO"},
    {IPPROTO_IP, IP_TOS, "IP_TOS"},
    {IPPROTO_IP, IP_TTL, "IP_TTL"},
    {IPPROTO_IP, IP_OPTIONS, "IP_OPTIONS"},
    {IPPROTO_IP, IP_MTU_DISCOVER, "IP_MTU_DISCOVER"},
    {IPPROTO_IP, IP_FREEBIND, "IP_FREEBIND"},
    {IPPROTO_IP, IP_TRANSPARENT, "IP_TRANSPARENT"},
    {IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, "IP_BIND_ADDRESS_NO_PORT"},
    {IPPROTO_IP, kIpLocalPortRange, "IP_LOCAL_PORT_RANGE"},
    {IPPROTO_IP, IP_MINTTL, "IP_MINTTL"},
    {IPPROTO_IP, IP_PKTINFO, "IP_PKTINFO", OptionUse::kDatagram},
    {IPPROTO_IP, IP_RECVTOS, "IP_RECVTOS", OptionUse::kDatagram},
    {IPPROTO_IP, IP_RECVTTL, "IP_RECVTTL", OptionUse::kDatagram},
    {IPPROTO_IP, IP_RECVOPTS, "IP_RECVOPTS", OptionUse::kDatagram},
    {IPPROTO_IP, IP_RETOPTS, "IP_RETOPTS", OptionUse::kDatagram},
    {IPPROTO_IP, IP_RECVERR, "IP_RECVERR"},
    {IPPROTO_IP, IP_RECVORIGDSTADDR, "IP_RECVORIGDSTADDR", OptionUse::kDatagram},
    {IPPROTO_IP, IP_RECVFRAGSIZE, "IP_RECVFRAGSIZE", OptionUse::kDatagram},
    {IPPROTO_IP, IP_MULTICAST_TTL, "IP_MULTICAST_TTL", OptionUse::kDatagram},
    {IPPROTO_IP, IP_MULTICAST_LOOP, "IP_MULTICAST_LOOP", OptionUse::kDatagram},
    {IPPROTO_IP, IP_MULTICAST_ALL, "IP_MULTICAST_ALL", OptionUse::kDatagram},
    {IPPROTO_IPV6, IPV6_V6ONLY, "IPV6_V6ONLY"},
    {IPPROTO_IPV6, IPV6_UNICAST_HOPS, "IPV6_UNICAST_HOPS"},
    {IPPROTO_IPV6, IPV6_TCLASS, "IPV6_TCLASS"},
    {IPPROTO_IPV6, IPV6_MTU_DISCOVER, "IPV6_MTU_DISCOVER"},
    {IPPROTO_IPV6, IPV6_DONTFRAG, "IPV6_DONTFRAG", OptionUse::kDatagram},
    {IPPROTO_IPV6, IPV6_RECVERR, "IPV6_RECVERR"},
    {IPPROTO_IPV6, IPV6_RECVPKTINFO, "IPV6_RECVPKTINFO", OptionUse::kDatagram},
    {IPPROTO_IPV6, IPV6_RECVHOPLIMIT, "IPV6_RECVHOPLIMIT", OptionUse::kDatagram},
    {IPPROTO_IPV6, IPV6_RECVTCLASS, "IPV6_RECVTCLASS", OptionUse::kDatagram},
    {IPPROTO_IPV6, IPV6_RECVORIGDSTADDR, "IPV6_RECVORIGDSTADDR", OptionUse::kDatagram},
    {IPPROTO_IPV6, IPV6_MINHOPCOUNT, "IPV6_MINHOPCOUNT"},
    {IPPROTO_IPV6, IPV6_ADDR_PREFERENCES, "IPV6_ADDR_PREFERENCES"},
    {IPPROTO_IPV6, IPV6_AUTOFLOWLABEL, "IPV6_AUTOFLOWLABEL"},
    {IPPROTO_IPV6, IPV6_FREEBIND, "IPV6_FREEBIND"},
    {IPPROTO_IPV6, IPV6_TRANSPARENT, "IPV6_TRANSPARENT"},
    {IPPROTO_IPV6, IPV6_MULTICAST_HOPS, "IPV6_MULTICAST_HOPS", OptionUse::kDatagram},
    {IPPROTO_IPV6, IPV6_MULTICAST_LOOP, "IPV6_MULTICAST_LOOP", OptionUse::kDatagram},
};

constexpr std::tuple<int, int, OptionPace> kPaces[] = {
    {SOL_SOCKET, SO_REUSEADDR, OptionPace::kUrgent},
    {SOL_SOCKET, SO_SNDBUF, OptionPace::kUrgent},
    {SOL_SOCKET, SO_RCVBUF, OptionPace::kUrgent},
    {IPPROTO_TCP, TCP_WINDOW_CLAMP, OptionPace::kUrgent},
    {SOL_SOCKET, SO_ATTACH_FILTER, OptionPace::kLively},
    {SOL_SOCKET, SO_RCVTIMEO, OptionPace::kLively},
    {SOL_SOCKET, SO_SNDTIMEO, OptionPace::kLively},
    {SOL_SOCKET, SO_RCVLOWAT, OptionPace::kLively},
    {IPPROTO_TCP, TCP_NODELAY, OptionPace::kLively},
    {IPPROTO_TCP, TCP_CORK, OptionPace::kLively},
};

std::optional<std::string> read_option(int fd, const KnownOption& option) {
  std::array<char, 256> value{};
  socklen_t bytes = value.size();
  if (getsockopt(fd, option.level, option.name, value.data(), &bytes) != 0) return std::nullopt;
  std::string text(value.data(), bytes);
  // The name comes with padding that a comparison must not see.
  if (option.level == IPPROTO_TCP && option.name == TCP_CONGESTION) text = text.c_str();
  return text;
}

using SocketKind = std::tuple<int, int, int>;
using Values = std::vector<std::optional<std::string>>;

Values read_all_options(int fd, int protocol) {
  Values values;
  for (const KnownOption& option : kKnown) {
    const bool other_protocol =
        (option.level == IPPROTO_TCP || option.level == IPPROTO_UDP) && option.level != protocol;
    const bool meaningless = protocol == IPPROTO_TCP && option.use == OptionUse::kDatagram;
    values.push_back(other_protocol || meaningless ? std::nullopt : read_option(fd, option));
  }
  return values;
}

Values read_new_socket(const SocketKind& kind) {
  const auto [family, type, protocol] = kind;
  const UniqueFd fresh(socket(family, type | SOCK_CLOEXEC, protocol));
  if (!fresh.valid()) throw_system("socket of family {} type {}", family, type);
  return read_all_options(fresh.get(), protocol);
}

const Values& new_socket_values(const SocketKind& kind) {
  thread_local std::map<SocketKind, Values> known;
  const auto found = known.find(kind);
  if (found != known.end()) return found->second;
  return known.emplace(kind, read_new_socket(kind)).first->second;
}

}  // namespace

std::string socket_option_name(int level, int name) {
  for (const KnownOption& option : kKnown) {
    if (option.level == level && option.name == name) return std::string(option.label);
  }
  if (level == SOL_SOCKET && name == SO_ATTACH_FILTER) return "SO_ATTACH_FILTER";
  return fmt::format("option {}/{}", level, name);
}

std::vector<SocketOptionValue> changed_socket_options(int fd, int family, int type, int protocol) {
  const Values& normal = new_socket_values({family, type, protocol});
  std::vector<SocketOptionValue> changed;
  std::size_t index = 0;
  for (const KnownOption& option : kKnown) {
    const std::optional<std::string>& fresh = normal[index++];
    if (!fresh) continue;
    const std::optional<std::string> now = read_option(fd, option);
    if (now && *now != *fresh) changed.push_back({option.level, option.name, *now});
  }
  if (const auto filter = classic_socket_filter(fd)) {
    changed.push_back({SOL_SOCKET, SO_ATTACH_FILTER, *filter});
  }
  return changed;
}

const std::string& tcp_congestion_of_new_sockets(int family) {
  static const std::string kUnknown;
  const Values& normal = new_socket_values({family, SOCK_STREAM, IPPROTO_TCP});
  for (std::size_t index = 0; index < std::size(kKnown); ++index) {
    if (kKnown[index].level == IPPROTO_TCP && kKnown[index].name == TCP_CONGESTION) {
      return normal[index] ? *normal[index] : kUnknown;
    }
  }
  return kUnknown;
}

OptionPace option_pace(int level, int name) {
  for (const auto& [its_level, its_name, pace] : kPaces) {
    if (its_level == level && its_name == name) return pace;
  }
  return OptionPace::kSettled;
}

std::vector<SocketOptionValue> changed_socket_options(int fd, int family, int type, int protocol,
                                                      OptionPace pace) {
  const Values& normal = new_socket_values({family, type, protocol});
  std::vector<SocketOptionValue> changed;
  for (std::size_t index = 0; index < std::size(kKnown); ++index) {
    const KnownOption& option = kKnown[index];
    if (!normal[index] || option_pace(option.level, option.name) != pace) continue;
    std::optional<std::string> now = read_option(fd, option);
    if (now && *now != *normal[index]) {
      changed.push_back({option.level, option.name, *std::move(now)});
    }
  }
  if (pace != option_pace(SOL_SOCKET, SO_ATTACH_FILTER)) return changed;
  if (auto filter = classic_socket_filter(fd)) {
    changed.push_back({SOL_SOCKET, SO_ATTACH_FILTER, *std::move(filter)});
  }
  return changed;
}

int try_set_socket_option(int fd, const SocketOptionValue& option) {
  int name = option.name;
  std::string value = option.value;
  if (option.level == SOL_SOCKET && (name == SO_SNDBUF || name == SO_RCVBUF)) {
    // The kernel doubles what it is given, and checks the usual call against a host-wide limit.
    int size = 0;
    std::memcpy(&size, value.data(), std::min(value.size(), sizeof size));
    value = int_option_value(size / 2);
    name = name == SO_SNDBUF ? SO_SNDBUFFORCE : SO_RCVBUFFORCE;
  }
  if (option.level == SOL_SOCKET && name == SO_ATTACH_FILTER) {
    if (value.empty()) {
      int unused = 0;
      return setsockopt(fd, SOL_SOCKET, SO_DETACH_FILTER, &unused, sizeof unused) == 0 ? 0 : errno;
    }
    sock_fprog program{};
    program.len = static_cast<unsigned short>(value.size() / sizeof(sock_filter));
    program.filter = reinterpret_cast<sock_filter*>(value.data());
    return setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program) == 0 ? 0 : errno;
  }
  const auto bytes = static_cast<socklen_t>(value.size());
  return setsockopt(fd, option.level, name, value.data(), bytes) == 0 ? 0 : errno;
}

void set_socket_option(int fd, const SocketOptionValue& option) {
  if (const int code = try_set_socket_option(fd, option); code != 0) {
    throw_errno(code, fmt::format("setsockopt {} of descriptor {}",
                                  socket_option_name(option.level, option.name), fd));
  }
}

SocketOptionValue socket_option(int fd, int level, int name) {
  if (level == SOL_SOCKET && name == SO_ATTACH_FILTER) {
    return {level, name, classic_socket_filter(fd).value_or(std::string())};
  }
  std::array<char, 256> value{};
  socklen_t bytes = value.size();
  if (getsockopt(fd, level, name, value.data(), &bytes) != 0) {
    throw_system("getsockopt {} of descriptor {}", socket_option_name(level, name), fd);
  }
  return {level, name, std::string(value.data(), bytes)};
}

int int_socket_option(int fd, int level, int name) {
  int value = 0;
  socklen_t bytes = sizeof value;
  if (getsockopt(fd, level, name, &value, &bytes) != 0) return 0;
  return value;
}

std::string int_option_value(int value) {
  return std::string(reinterpret_cast<const char*>(&value), sizeof value);
}

std::uint64_t socket_inode(int fd) {
  struct stat status {};
  if (fstat(fd, &status) != 0) throw_system("fstat of socket {}", fd);
  return status.st_ino;
}

bool is_socket_of_other_network(int fd) {
  const UniqueFd network(ioctl(fd, kGetSocketNamespace));
  if (!network.valid()) return false;
  struct stat own {};
  if (stat("/proc/thread-self/ns/net", &own) != 0) throw_system("stat /proc/thread-self/ns/net");
  return socket_inode(network.get()) != own.st_ino;
}

std::string socket_interface(int fd) {
  std::array<char, 64> name{};
  socklen_t bytes = name.size();
  if (getsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, name.data(), &bytes) != 0) return {};
  return std::string(name.data(), strnlen(name.data(), bytes));
}

SocketFilter socket_filter(int fd) {
  if (int_socket_option(fd, SOL_SOCKET, SO_LOCK_FILTER) != 0) return SocketFilter::kOpaque;
  socklen_t instructions = 0;
  if (getsockopt(fd, SOL_SOCKET, SO_GET_FILTER, nullptr, &instructions) != 0) {
    return SocketFilter::kOpaque;  // EACCES: an eBPF program, which has no classic form
  }
  return instructions == 0 ? SocketFilter::kNone : SocketFilter::kClassic;
}

std::optional<std::string> classic_socket_filter(int fd) {
  socklen_t instructions = 0;
  if (getsockopt(fd, SOL_SOCKET, SO_GET_FILTER, nullptr, &instructions) != 0 || instructions == 0) {
    return std::nullopt;
  }
  std::string program(instructions * sizeof(sock_filter), '\0');
  if (getsockopt(fd, SOL_SOCKET, SO_GET_FILTER, program.data(), &instructions) != 0) {
    throw_system("read the packet filter of descriptor {}", fd);
  }
  return program;
}

}  // namespace godwit
