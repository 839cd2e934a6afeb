// Addresses of sockets as values: struct sockaddr_in and sockaddr_in6 (ip(7), ipv6(7)).
#pragma once

#include <netinet/in.h>
#include <sys/socket.h>

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace godwit {

// An IPv4 or IPv6 address. ::ffff:a.b.c.d is IPv4 wherever packets are meant: see unmapped().
struct IpAddress {
  int family = AF_INET;
  std::array<std::uint8_t, 16> bytes{};  // network order; IPv4 uses the first 4

  std::size_t size() const { return family == AF_INET6 ? 16 : 4; }
  std::string_view view() const { return {reinterpret_cast<const char*>(bytes.data()), size()}; }
  bool is_wildcard() const;
  bool is_loopback() const;
  bool is_link_local() const;
  IpAddress unmapped() const;  // the IPv4 address inside a mapped one, else itself
  std::string text() const;

  // 4 or 16 bytes in network order; nullopt otherwise.
  static std::optional<IpAddress> from_bytes(std::string_view bytes);
  static std::optional<IpAddress> from_text(const std::string& text);
  friend auto operator<=>(const IpAddress&, const IpAddress&) = default;
};

class SocketAddress {
 public:
  SocketAddress() = default;
  SocketAddress(const IpAddress& address, std::uint16_t port);
  // A struct sockaddr as in a description; nullopt unless it is a complete sockaddr_in or _in6.
  static std::optional<SocketAddress> from_bytes(std::string_view bytes);
  // getsockname(2); nullopt: not bound (port 0 and no address).
  static std::optional<SocketAddress> local_of(int fd);
  // getpeername(2); nullopt: not connected.
  static std::optional<SocketAddress> remote_of(int fd);

  IpAddress ip() const;
  std::uint16_t port() const;
  int family() const { return storage_.ss_family; }
  const sockaddr* get() const { return reinterpret_cast<const sockaddr*>(&storage_); }
  socklen_t size() const;
  std::string bytes() const;
  std::string text() const;  // 10.0.0.1:80, [fd00::1]:80

 private:
  sockaddr_storage storage_{};
};

}  // namespace godwit
