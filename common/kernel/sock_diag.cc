#include "common/kernel/sock_diag.h"

#include <arpa/inet.h>
#include <linux/inet_diag.h>
#include <linux/sock_diag.h>
#include <linux/unix_diag.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <cstring>

#include "common/base/error.h"
#include "common/kernel/netlink.h"

namespace godwit {
namespace {

template <typename Request>
NetlinkMessage make_request(const Request& request, int flags) {
  NetlinkMessage message = Netlink::make_message(SOCK_DIAG_BY_FAMILY, flags);
  if (nlmsg_append(message.get(), const_cast<Request*>(&request), sizeof request, NLMSG_ALIGNTO) <
      0) {
    throw_errno(ENOMEM, "sock_diag request");
  }
  return message;
}

UnixDiag parse_unix(const nlmsghdr& header) {
  const auto* body = static_cast<const unix_diag_msg*>(nlmsg_data(&header));
  UnixDiag found;
  found.type = body->udiag_type;
  found.state = body->udiag_state;
  found.inode = body->udiag_ino;
  nlattr* attributes[UNIX_DIAG_MAX + 1] = {};
  nlmsg_parse(const_cast<nlmsghdr*>(&header), sizeof *body, attributes, UNIX_DIAG_MAX, nullptr);
  if (nlattr* peer = attributes[UNIX_DIAG_PEER]) found.peer_inode = nla_get_u32(peer);
  if (nlattr* shutdown = attributes[UNIX_DIAG_SHUTDOWN]) found.shutdown = nla_get_u8(shutdown);
  if (nlattr* name = attributes[UNIX_DIAG_NAME]) {
    found.name.assign(static_cast<const char*>(nla_data(name)),
                      static_cast<std::size_t>(nla_len(name)));
    while (found.name.size() > 1 && found.name.back() == '\0' && found.name.front() != '\0') {
      found.name.pop_back();
    }
  }
  if (nlattr* queue = attributes[UNIX_DIAG_RQLEN]) {
    unix_diag_rqlen lengths{};
    std::memcpy(&lengths, nla_data(queue), sizeof lengths);
    found.receive_queue = lengths.udiag_rqueue;
    found.send_queue = lengths.udiag_wqueue;
  }
  return found;
}

InetDiag parse_inet(const nlmsghdr& header) {
  const auto* body = static_cast<const inet_diag_msg*>(nlmsg_data(&header));
  InetDiag found;
  found.family = body->idiag_family;
  found.state = body->idiag_state;
  const std::size_t bytes = found.family == AF_INET6 ? 16 : 4;
  const auto* local = reinterpret_cast<const std::uint8_t*>(body->id.idiag_src);
  const auto* remote = reinterpret_cast<const std::uint8_t*>(body->id.idiag_dst);
  found.local_address.assign(local, local + bytes);
  found.remote_address.assign(remote, remote + bytes);
  found.local_port = ntohs(body->id.idiag_sport);
  found.remote_port = ntohs(body->id.idiag_dport);
  found.inode = body->idiag_inode;
  found.receive_queue = body->idiag_rqueue;
  found.send_queue = body->idiag_wqueue;
  nlattr* attributes[INET_DIAG_MAX + 1] = {};
  nlmsg_parse(const_cast<nlmsghdr*>(&header), sizeof *body, attributes, INET_DIAG_MAX, nullptr);
  if (nlattr* shutdown = attributes[INET_DIAG_SHUTDOWN]) found.shutdown = nla_get_u8(shutdown);
  found.md5_signed = attributes[INET_DIAG_MD5SIG] != nullptr;
  return found;
}

unix_diag_req unix_request() {
  unix_diag_req request{};
  request.sdiag_family = AF_UNIX;
  request.udiag_states = ~0U;
  request.udiag_show = UDIAG_SHOW_PEER | UDIAG_SHOW_RQLEN | UDIAG_SHOW_NAME;
  return request;
}

}  // namespace

std::optional<UnixDiag> unix_diag(std::uint64_t inode) {
  Netlink netlink(NETLINK_SOCK_DIAG, "sock_diag");
  unix_diag_req request = unix_request();
  request.udiag_ino = static_cast<__u32>(inode);
  request.udiag_cookie[0] = request.udiag_cookie[1] = ~0U;
  std::optional<UnixDiag> found;
  // A lookup of one socket is not a dump: its answer carries no end, the acknowledgement does.
  const int code = netlink.try_ask(make_request(request, NLM_F_ACK),
                                   [&](const nlmsghdr& header) { found = parse_unix(header); });
  if (code == ENOENT) return std::nullopt;
  if (code != 0) throw_errno(code, fmt::format("sock_diag of unix socket {}", inode));
  return found;
}

std::vector<UnixDiag> unix_diag_all() {
  Netlink netlink(NETLINK_SOCK_DIAG, "sock_diag");
  std::vector<UnixDiag> found;
  const int code =
      netlink.try_ask(make_request(unix_request(), NLM_F_DUMP),
                      [&](const nlmsghdr& header) { found.push_back(parse_unix(header)); });
  if (code != 0) throw_errno(code, "sock_diag dump of unix sockets");
  return found;
}

std::vector<InetDiag> inet_diag(int protocol, std::uint32_t states) {
  Netlink netlink(NETLINK_SOCK_DIAG, "sock_diag");
  std::vector<InetDiag> found;
  for (const int family : {AF_INET, AF_INET6}) {
    inet_diag_req_v2 request{};
    request.sdiag_family = static_cast<__u8>(family);
    request.sdiag_protocol = static_cast<__u8>(protocol);
    request.idiag_states = states;
    request.idiag_ext = 1 << (INET_DIAG_INFO - 1);  // the kernel shows MD5 keys only along with it
    const int code =
        netlink.try_ask(make_request(request, NLM_F_DUMP),
                        [&](const nlmsghdr& header) { found.push_back(parse_inet(header)); });
    if (code == ENOENT && family == AF_INET6) continue;  // a kernel without IPv6
    if (code != 0) throw_errno(code, fmt::format("sock_diag dump of protocol {}", protocol));
  }
  return found;
}

}  // namespace godwit
