#include "common/kernel/raw_ip.h"

#include <netinet/in.h>

#include <cerrno>

#include "common/base/error.h"

namespace godwit {
namespace {

constexpr int kSendBufferBytes = 4 << 20;

}  // namespace

RawIpSocket::RawIpSocket(int family, std::uint32_t mark)
    : fd_(socket(family, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_RAW)) {
  if (!fd_.valid()) throw_system("raw socket of family {}", family);
  const int on = 1;
  // IPPROTO_RAW implies the header for both families; saying so again catches a kernel that
  // differs.
  const int level =
      family == AF_INET6 ? static_cast<int>(IPPROTO_IPV6) : static_cast<int>(IPPROTO_IP);
  const int name = family == AF_INET6 ? IPV6_HDRINCL : IP_HDRINCL;
  if (setsockopt(fd_.get(), level, name, &on, sizeof on) != 0) {
    throw_system("raw socket of family {}: headers included", family);
  }
  if (setsockopt(fd_.get(), SOL_SOCKET, SO_MARK, &mark, sizeof mark) != 0) {
    throw_system("raw socket of family {}: SO_MARK", family);
  }
  setsockopt(fd_.get(), SOL_SOCKET, SO_SNDBUFFORCE, &kSendBufferBytes, sizeof kSendBufferBytes);
}

int RawIpSocket::send(std::string_view packet, const sockaddr* to, socklen_t to_bytes) {
  if (sendto(fd_.get(), packet.data(), packet.size(), MSG_NOSIGNAL, to, to_bytes) < 0) return errno;
  return 0;
}

}  // namespace godwit
