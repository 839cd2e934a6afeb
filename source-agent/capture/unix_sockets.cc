#include "source-agent/capture/unix_sockets.h"

#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <cstring>
#include <memory>

#include "common/base/scope_exit.h"

namespace godwit {
namespace {

constexpr int kScmPidfd = 4;  // SCM_PIDFD, newer than the C library's headers
constexpr int kSingleQuestions = 8;
constexpr std::size_t kMessageBytesMax = 4 << 20;

// Plain options that a program may have set. Buffer sizes and the peek offset are apart.
constexpr int kPlainOptions[] = {
    SO_PASSCRED,  SO_PASSSEC,   SO_PRIORITY,    SO_RCVLOWAT, SO_RCVTIMEO,
    SO_SNDTIMEO,  SO_TIMESTAMP, SO_TIMESTAMPNS, SO_PEEK_OFF, SO_KEEPALIVE,
    SO_BROADCAST, SO_REUSEADDR, SO_LINGER,      SO_MARK,     76 /* SO_PASSPIDFD */};

template <typename Value>
Value option(const FdFacts& facts, int name) {
  Value value{};
  socklen_t bytes = sizeof value;
  if (getsockopt(facts.copy.get(), SOL_SOCKET, name, &value, &bytes) != 0) {
    throw_system("read socket option {} of {}", name, facts.name());
  }
  return value;
}

void capture_options(const FdFacts& facts, proto::UnixSocket& out) {
  out.set_send_buffer(static_cast<std::uint32_t>(option<int>(facts, SO_SNDBUF)));
  out.set_receive_buffer(static_cast<std::uint32_t>(option<int>(facts, SO_RCVBUF)));
  for (const int name : kPlainOptions) {
    char value[32] = {};
    socklen_t bytes = sizeof value;
    if (getsockopt(facts.copy.get(), SOL_SOCKET, name, value, &bytes) != 0)
      continue;  // older kernel
    const std::string text(value, bytes);
    const bool is_default = name == SO_PEEK_OFF   ? text == std::string("\xff\xff\xff\xff")
                            : name == SO_RCVLOWAT ? text == std::string("\1\0\0\0", 4)
                                                  : text == std::string(bytes, '\0');
    if (is_default) continue;
    auto* entry = out.add_options();
    entry->set_level(SOL_SOCKET);
    entry->set_name(name);
    entry->set_value(text);
  }
}

void refuse_descriptors_in_flight(const FdFacts& facts, Findings& findings) {
  refuse(findings, "fd-unix-descriptors", facts.name(),
         "descriptors are on their way through it (SCM_RIGHTS)",
         "cannot be moved yet: try again when they have been received");
}

// Takes the credentials out of the control data; true when descriptors came along (closed here).
bool read_control(msghdr& header, proto::MessageSender& sender) {
  bool descriptors = (header.msg_flags & MSG_CTRUNC) != 0;
  for (cmsghdr* part = CMSG_FIRSTHDR(&header); part != nullptr; part = CMSG_NXTHDR(&header, part)) {
    if (part->cmsg_level != SOL_SOCKET) continue;
    if (part->cmsg_type == SCM_CREDENTIALS) {
      ucred from{};
      std::memcpy(&from, CMSG_DATA(part), sizeof from);
      sender.set_uid(from.uid);
      sender.set_gid(from.gid);
    } else if (part->cmsg_type == SCM_RIGHTS || part->cmsg_type == kScmPidfd) {
      descriptors = descriptors || part->cmsg_type == SCM_RIGHTS;
      for (std::size_t at = 0; at + sizeof(int) <= part->cmsg_len - CMSG_LEN(0);
           at += sizeof(int)) {
        int fd = -1;
        std::memcpy(&fd, CMSG_DATA(part) + at, sizeof fd);
        close(fd);
      }
    }
  }
  return descriptors;
}

void peek_queue(const FdFacts& facts, proto::UnixSocket& out, Findings& findings) {
  const int fd = facts.copy.get();
  const bool credentials = option<int>(facts, SO_PASSCRED) != 0;
  const int peek_offset = option<int>(facts, SO_PEEK_OFF);
  int waiting = 0;
  if (ioctl(fd, FIONREAD, &waiting) != 0) throw_system("FIONREAD on {}", facts.name());
  // A datagram socket tells of its first message only, which may be empty.
  if (waiting == 0 && out.type() != SOCK_DGRAM) return;
  const int from_start = 0;
  if (setsockopt(fd, SOL_SOCKET, SO_PEEK_OFF, &from_start, sizeof from_start) != 0) {
    throw_system("set SO_PEEK_OFF on {}", facts.name());
  }
  const ScopeExit give_back(
      [&] { setsockopt(fd, SOL_SOCKET, SO_PEEK_OFF, &peek_offset, sizeof peek_offset); });
  const auto block = std::make_unique_for_overwrite<char[]>(kMessageBytesMax);  // mostly untouched
  std::size_t total = 0;
  for (;;) {
    alignas(cmsghdr) char control[256];
    iovec part{block.get(), kMessageBytesMax};
    msghdr header{};
    header.msg_iov = &part;
    header.msg_iovlen = 1;
    header.msg_control = control;
    header.msg_controllen = sizeof control;
    const auto bytes = recvmsg(fd, &header, MSG_PEEK | MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (bytes < 0 && (errno == EAGAIN || errno == EINVAL)) break;  // EINVAL: not connected
    if (bytes < 0) throw_system("peek into {}", facts.name());
    // Nothing is the end of a stream, but may be a message of a message socket.
    if (bytes == 0 && out.type() == SOCK_STREAM) break;
    if (bytes == 0 && out.type() == SOCK_SEQPACKET && total >= static_cast<std::size_t>(waiting))
      break;
    if ((header.msg_flags & MSG_TRUNC) != 0)
      fail("{} holds a message of more than 4 MiB", facts.name());
    proto::MessageSender sender;
    if (read_control(header, sender)) return refuse_descriptors_in_flight(facts, findings);
    total += static_cast<std::size_t>(bytes);
    out.add_messages(block.get(), static_cast<std::size_t>(bytes));
    if (credentials) *out.add_senders() = sender;
  }
}

void examine(const FdFacts& facts, Findings& findings) {
  if (option<int>(facts, SO_ACCEPTCONN) != 0) {
    refuse(findings, "fd-unix-listening", facts.name(),
           "listening unix sockets cannot be moved yet", "close it, or listen on TCP instead");
  }
  sockaddr_un name{};
  socklen_t bytes = sizeof name;
  if (getsockname(facts.copy.get(), reinterpret_cast<sockaddr*>(&name), &bytes) != 0) {
    throw_system("getsockname of {}", facts.name());
  }
  if (bytes > offsetof(sockaddr_un, sun_path)) {
    refuse(
        findings, "fd-unix-named", facts.name(),
        fmt::format("it is bound to the name {}",
                    name.sun_path[0] != 0 ? name.sun_path : "@" + std::string(name.sun_path + 1)),
        "named unix sockets cannot be moved yet: close it");
  }
  socklen_t no_bytes = 0;
  if (getsockopt(facts.copy.get(), SOL_SOCKET, SO_GET_FILTER, nullptr, &no_bytes) != 0 ||
      no_bytes > 0) {
    refuse(findings, "fd-socket-filter", facts.name(), "a socket filter is attached",
           "detach the filter (SO_DETACH_FILTER)");
  }
  if (facts.info.descriptors_in_flight > 0) refuse_descriptors_in_flight(facts, findings);
}

}  // namespace

std::optional<UnixDiag> UnixTable::find(std::uint64_t inode) {
  if (++questions_ <= kSingleQuestions) return unix_diag(inode);
  if (all_.empty()) {
    for (UnixDiag& entry : unix_diag_all()) all_.emplace(entry.inode, std::move(entry));
  }
  const auto found = all_.find(inode);
  return found == all_.end() ? std::nullopt : std::optional(found->second);
}

proto::UnixSocket capture_unix_socket(const FdFacts& facts, bool contents,
                                      const std::function<bool(std::uint64_t)>& is_own_socket,
                                      UnixTable& table, Findings& findings) {
  proto::UnixSocket out;
  examine(facts, findings);
  out.set_type(option<int>(facts, SO_TYPE));
  out.set_inode(facts.stamp.inode);
  capture_options(facts, out);
  sockaddr_un name{};
  socklen_t bytes = sizeof name;
  out.set_connected(getpeername(facts.copy.get(), reinterpret_cast<sockaddr*>(&name), &bytes) == 0);
  const auto diag = table.find(facts.stamp.inode);
  if (!diag) fail("{} is not in this network namespace, or closed meanwhile", facts.name());
  out.set_shutdown(diag->shutdown);
  if (out.connected()) {
    const auto creator = option<ucred>(facts, SO_PEERCRED);
    out.set_creator_uid(creator.uid);
    out.set_creator_gid(creator.gid);
    out.set_peer(diag->peer_inode);
  }
  if (out.peer() != 0 && !is_own_socket(out.peer())) {
    refuse(findings, "fd-unix-outside-peer", facts.name(),
           "the other end of this unix socket is in another process",
           "close the connection: only pairs within the process can be moved");
    out.clear_peer();
  }
  if (contents && findings.empty()) peek_queue(facts, out, findings);
  return out;
}

}  // namespace godwit
