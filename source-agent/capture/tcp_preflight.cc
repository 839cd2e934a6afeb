// What of TCP sockets can't be moved.
#include <linux/tcp.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <array>

#include "common/kernel/socket_options.h"
#include "common/kernel/tcp_repair.h"
#include "common/network/socket_address.h"
#include "source-agent/capture/tcp_sockets.h"

namespace godwit {
namespace {

constexpr int kProtocolMptcp = 262;

std::string connection_key(const std::vector<std::uint8_t>& from, std::uint16_t from_port,
                           const std::vector<std::uint8_t>& to, std::uint16_t to_port) {
  const auto plain = [](const std::vector<std::uint8_t>& bytes) {
    const auto address =
        IpAddress::from_bytes({reinterpret_cast<const char*>(bytes.data()), bytes.size()});
    return address ? address->unmapped().text() : std::string();
  };
  return fmt::format("{} {} {} {}", plain(from), from_port, plain(to), to_port);
}

std::string layered_protocol(int agent_fd) {
  std::array<char, 16> name{};
  socklen_t bytes = name.size();
  if (getsockopt(agent_fd, IPPROTO_TCP, TCP_ULP, name.data(), &bytes) != 0) return {};
  return std::string(name.data(), strnlen(name.data(), bytes));
}

void preflight_kind(int agent_fd, const std::string& object, Findings& findings) {
  if (int_socket_option(agent_fd, SOL_SOCKET, SO_PROTOCOL) == kProtocolMptcp) {
    refuse(findings, "tcp-multipath", object, "a Multipath TCP socket can't be moved",
           "start the program without MPTCP (GODEBUG=multipathtcp=0, or without mptcpize)");
  }
  if (const std::string name = layered_protocol(agent_fd); !name.empty()) {
    refuse(
        findings, "tcp-upper-layer-protocol", object,
        fmt::format("the kernel's {} layer sits on this connection; its keys can't be read", name),
        "let the program do TLS itself, or close the connection");
  }
  if (is_socket_of_other_network(agent_fd)) {
    refuse(findings, "socket-of-other-network", object,
           "the socket belongs to another network namespace than the agent",
           "run the source agent in the network namespace of the program");
  }
  if (socket_filter(agent_fd) == SocketFilter::kOpaque) {
    refuse(findings, "socket-filter-opaque", object,
           "the socket has an eBPF or locked packet filter, which can't be read back",
           "let the program attach a classic filter without SO_LOCK_FILTER");
  }
  if (const std::string name = socket_interface(agent_fd); !name.empty()) {
    refuse(findings, "socket-bound-to-interface", object,
           fmt::format("the socket is bound to the interface {}; held packets can't reach it there",
                       name),
           "let the program bind to an address instead of an interface");
  }
  examine_tcp_connecting(agent_fd, object, findings);
}

void preflight_addresses(int agent_fd, const std::string& object, const ProcessSockets& sockets,
                         Findings& findings) {
  const InetDiag* diag = sockets.find(socket_inode(agent_fd));
  if (diag != nullptr && diag->md5_signed) {
    refuse(findings, "tcp-md5", object, "connections signed with TCP-MD5 can't be moved",
           "remove the key from the socket");
  }
  const auto local = SocketAddress::local_of(agent_fd);
  if (local && local->ip().unmapped().family == AF_INET6 && local->ip().is_link_local()) {
    refuse(
        findings, "address-link-local", object,
        fmt::format("{} is a link-local address, which belongs to this host's link", local->text()),
        "use a global or unique local address");
  }
  const auto remote = SocketAddress::remote_of(agent_fd);
  if (!remote || !local || diag == nullptr) return;
  // Both ends on one address: the other end would have to come along.
  if (!remote->ip().is_loopback() && remote->ip() != local->ip()) return;
  const InetDiag* other = sockets.other_end(*diag);
  if (other != nullptr && sockets.owns(other->inode)) return;
  refuse(findings, "tcp-other-end-outside", object,
         fmt::format("connected within this host, {} to {}, to a socket outside of the process",
                     local->text(), remote->text()),
         "let the other end connect to an address that other hosts reach, or close the connection");
}

}  // namespace

bool is_tcp_socket(int fd) {
  const int family = int_socket_option(fd, SOL_SOCKET, SO_DOMAIN);
  if (family != AF_INET && family != AF_INET6) return false;
  const int protocol = int_socket_option(fd, SOL_SOCKET, SO_PROTOCOL);
  return protocol == IPPROTO_TCP || protocol == kProtocolMptcp;
}

ProcessSockets::ProcessSockets(std::set<std::uint64_t> inodes)
    : inodes_(std::move(inodes)), sockets_(inet_diag(IPPROTO_TCP, ~0U)) {
  for (const InetDiag& socket : sockets_) {
    if (socket.inode != 0) by_inode_[socket.inode] = &socket;
    by_addresses_[connection_key(socket.local_address, socket.local_port, socket.remote_address,
                                 socket.remote_port)] = &socket;
  }
}

const InetDiag* ProcessSockets::find(std::uint64_t inode) const {
  const auto found = by_inode_.find(inode);
  return found == by_inode_.end() ? nullptr : found->second;
}

const InetDiag* ProcessSockets::other_end(const InetDiag& socket) const {
  const auto found = by_addresses_.find(connection_key(socket.remote_address, socket.remote_port,
                                                       socket.local_address, socket.local_port));
  return found == by_addresses_.end() ? nullptr : found->second;
}

void preflight_tcp_socket(int agent_fd, int fd, const ProcessSockets& sockets, Findings& findings) {
  const std::string object = fmt::format("fd {}", fd);
  preflight_kind(agent_fd, object, findings);
  preflight_addresses(agent_fd, object, sockets, findings);
}

void examine_tcp_connecting(int agent_fd, const std::string& object, Findings& findings) {
  const TcpState state = tcp_facts(agent_fd).state;
  if (state != TcpState::kSynSent && state != TcpState::kSynReceived) return;
  refuse(findings, "tcp-connecting", object,
         fmt::format("the connection is still being made ({})", tcp_state_name(state)),
         "try again in a moment: it is either made or refused then");
}

}  // namespace godwit
