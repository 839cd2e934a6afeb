// What the kernel tells about sockets from outside (sock_diag(7)), by inode: the number that
// /proc/PID/fd shows as socket:[inode]. All functions look at the network namespace of the calling
// thread and throw Error.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace godwit {

// One end of a unix socket.
struct UnixDiag {
  int type = 0;   // SOCK_STREAM, SOCK_DGRAM, SOCK_SEQPACKET
  int state = 0;  // TCP_ESTABLISHED (connected), TCP_LISTEN, TCP_CLOSE of <netinet/tcp.h>
  std::uint64_t inode = 0;
  std::uint64_t peer_inode = 0;     // 0: none, or closed
  std::uint32_t receive_queue = 0;  // bytes; connections not accepted yet of a listener
  std::uint32_t send_queue = 0;     // bytes that the peer has not read
  std::uint32_t shutdown = 0;       // bit 0: receiving, bit 1: sending
  std::string name;                 // sun_path as bound; starts with a zero byte if abstract
};

// nullopt: no unix socket with this inode in this network namespace.
// Costs a walk over all unix sockets of the namespace.
std::optional<UnixDiag> unix_diag(std::uint64_t inode);
// All of them: for more than a few.
std::vector<UnixDiag> unix_diag_all();

// One TCP or UDP socket.
struct InetDiag {
  int family = 0;                           // AF_INET, AF_INET6
  int state = 0;                            // as TcpState; UDP: 1 connected, 7 not
  std::vector<std::uint8_t> local_address;  // 4 or 16 bytes
  std::uint16_t local_port = 0;             // host order
  std::vector<std::uint8_t> remote_address;
  std::uint16_t remote_port = 0;
  std::uint64_t inode = 0;          // 0: half-open, not accepted yet, or orphaned
  std::uint32_t receive_queue = 0;  // bytes; a listener's connections not accepted yet
  std::uint32_t send_queue = 0;     // bytes; a listener's backlog
  std::uint32_t shutdown = 0;       // bit 0: receiving, bit 1: sending
  bool md5_signed = false;          // TCP_MD5SIG keys are set; only known with CAP_NET_ADMIN
};

// Sockets of IPPROTO_TCP or IPPROTO_UDP in one of the states (a mask of 1 << TcpState), both
// families. Costs one dump, in proportion to all sockets of the namespace.
std::vector<InetDiag> inet_diag(int protocol, std::uint32_t states);

}  // namespace godwit
