#include "common/network/socket_address.h"

#include <arpa/inet.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "common/base/error.h"

namespace godwit {
namespace {

constexpr std::array<std::uint8_t, 12> kMappedPrefix = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};

bool is_mapped(const IpAddress& address) {
  return address.family == AF_INET6 &&
         std::equal(kMappedPrefix.begin(), kMappedPrefix.end(), address.bytes.begin());
}

}  // namespace

bool IpAddress::is_wildcard() const {
  return std::all_of(bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(size()),
                     [](std::uint8_t byte) { return byte == 0; });
}

bool IpAddress::is_loopback() const {
  const IpAddress plain = unmapped();
  if (plain.family == AF_INET) return plain.bytes[0] == 127;
  return std::memcmp(plain.bytes.data(), &in6addr_loopback, 16) == 0;
}

bool IpAddress::is_link_local() const {
  const IpAddress plain = unmapped();
  if (plain.family == AF_INET) return plain.bytes[0] == 169 && plain.bytes[1] == 254;
  return plain.bytes[0] == 0xfe && (plain.bytes[1] & 0xc0) == 0x80;
}

IpAddress IpAddress::unmapped() const {
  if (!is_mapped(*this)) return *this;
  IpAddress inner;
  std::copy(bytes.begin() + 12, bytes.end(), inner.bytes.begin());
  return inner;
}

std::string IpAddress::text() const {
  char buffer[INET6_ADDRSTRLEN] = {};
  inet_ntop(family, bytes.data(), buffer, sizeof buffer);
  return buffer;
}

std::optional<IpAddress> IpAddress::from_bytes(std::string_view bytes) {
  if (bytes.size() != 4 && bytes.size() != 16) return std::nullopt;
  IpAddress address;
  address.family = bytes.size() == 16 ? AF_INET6 : AF_INET;
  std::memcpy(address.bytes.data(), bytes.data(), bytes.size());
  return address;
}

std::optional<IpAddress> IpAddress::from_text(const std::string& text) {
  IpAddress address;
  address.family = text.find(':') == std::string::npos ? AF_INET : AF_INET6;
  if (inet_pton(address.family, text.c_str(), address.bytes.data()) != 1) return std::nullopt;
  return address;
}

SocketAddress::SocketAddress(const IpAddress& address, std::uint16_t port) {
  if (address.family == AF_INET6) {
    sockaddr_in6 in6{};
    in6.sin6_family = AF_INET6;
    in6.sin6_port = htons(port);
    std::memcpy(&in6.sin6_addr, address.bytes.data(), 16);
    std::memcpy(&storage_, &in6, sizeof in6);
    return;
  }
  sockaddr_in in{};
  in.sin_family = AF_INET;
  in.sin_port = htons(port);
  std::memcpy(&in.sin_addr, address.bytes.data(), 4);
  std::memcpy(&storage_, &in, sizeof in);
}

std::optional<SocketAddress> SocketAddress::from_bytes(std::string_view bytes) {
  SocketAddress address;
  if (bytes.size() < sizeof(sa_family_t) || bytes.size() > sizeof address.storage_) {
    return std::nullopt;
  }
  std::memcpy(&address.storage_, bytes.data(), bytes.size());
  if (bytes.size() != address.size()) return std::nullopt;
  return address;
}

std::optional<SocketAddress> SocketAddress::local_of(int fd) {
  SocketAddress address;
  socklen_t bytes = sizeof address.storage_;
  if (getsockname(fd, reinterpret_cast<sockaddr*>(&address.storage_), &bytes) != 0) {
    throw_system("getsockname of descriptor {}", fd);
  }
  if (address.port() == 0 && address.ip().is_wildcard()) return std::nullopt;
  return address;
}

std::optional<SocketAddress> SocketAddress::remote_of(int fd) {
  SocketAddress address;
  socklen_t bytes = sizeof address.storage_;
  if (getpeername(fd, reinterpret_cast<sockaddr*>(&address.storage_), &bytes) != 0) {
    if (errno == ENOTCONN) return std::nullopt;
    throw_system("getpeername of descriptor {}", fd);
  }
  return address;
}

IpAddress SocketAddress::ip() const {
  IpAddress address;
  address.family = storage_.ss_family;
  if (address.family == AF_INET6) {
    std::memcpy(address.bytes.data(), &reinterpret_cast<const sockaddr_in6*>(&storage_)->sin6_addr,
                16);
  } else {
    std::memcpy(address.bytes.data(), &reinterpret_cast<const sockaddr_in*>(&storage_)->sin_addr,
                4);
  }
  return address;
}

std::uint16_t SocketAddress::port() const {
  // The port is at the same place in both.
  return ntohs(reinterpret_cast<const sockaddr_in*>(&storage_)->sin_port);
}

socklen_t SocketAddress::size() const {
  if (storage_.ss_family == AF_INET6) return sizeof(sockaddr_in6);
  return storage_.ss_family == AF_INET ? sizeof(sockaddr_in) : 0;
}

std::string SocketAddress::bytes() const {
  return {reinterpret_cast<const char*>(&storage_), size()};
}

std::string SocketAddress::text() const {
  const std::string address = ip().text();
  if (family() == AF_INET6) return fmt::format("[{}]:{}", address, port());
  return fmt::format("{}:{}", address, port());
}

}  // namespace godwit
