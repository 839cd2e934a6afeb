#include "common/kernel/nflog.h"

#include <arpa/inet.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nfnetlink_log.h>
#include <linux/netlink.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstring>
#include <string_view>

#include "common/base/error.h"

namespace godwit {
namespace {

constexpr std::size_t kReadBytes = 256 << 10;  // more than the largest message
constexpr int kGroupsTried = 1000;

struct ConfigRequest {
  nlmsghdr header;
  nfgenmsg body;
  nlattr attribute;
  char value[16];
};

// The payload of one packet message.
std::string_view find_payload(const nlmsghdr& header) {
  const auto* message = reinterpret_cast<const char*>(&header);
  std::size_t at = NLMSG_HDRLEN + NLMSG_ALIGN(sizeof(nfgenmsg));
  while (at + sizeof(nlattr) <= header.nlmsg_len) {
    nlattr attribute{};
    std::memcpy(&attribute, message + at, sizeof attribute);
    if (attribute.nla_len < NLA_HDRLEN || at + attribute.nla_len > header.nlmsg_len) break;
    if ((attribute.nla_type & NLA_TYPE_MASK) == NFULA_PAYLOAD) {
      return {message + at + NLA_HDRLEN, static_cast<std::size_t>(attribute.nla_len) - NLA_HDRLEN};
    }
    at += NLA_ALIGN(attribute.nla_len);
  }
  return {};
}

}  // namespace

NflogGroup::NflogGroup(std::uint16_t first, std::size_t buffer_bytes)
    : fd_(socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_NETFILTER)),
      buffer_(kReadBytes, '\0') {
  if (!fd_.valid()) throw_system("netlink socket for packets");
  const int bytes = static_cast<int>(buffer_bytes);
  if (setsockopt(fd_.get(), SOL_SOCKET, SO_RCVBUFFORCE, &bytes, sizeof bytes) != 0) {
    throw_system("netlink socket for packets: buffer of {} bytes", bytes);
  }
  for (int tried = 0; tried < kGroupsTried; ++tried) {
    if (try_bind(static_cast<std::uint16_t>(first + tried))) return;
  }
  fail("no free packet log group among {} from {} on", kGroupsTried, first);
}

int NflogGroup::ask(std::uint16_t group, int attribute, const void* value, std::size_t bytes) {
  ConfigRequest request{};
  request.header.nlmsg_type = (NFNL_SUBSYS_ULOG << 8) | NFULNL_MSG_CONFIG;
  request.header.nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK;
  request.body.nfgen_family = AF_UNSPEC;
  request.body.version = NFNETLINK_V0;
  request.body.res_id = htons(group);
  request.attribute.nla_type = static_cast<__u16>(attribute);
  request.attribute.nla_len = static_cast<__u16>(NLA_HDRLEN + bytes);
  std::memcpy(request.value, value, bytes);
  request.header.nlmsg_len =
      static_cast<__u32>(offsetof(ConfigRequest, attribute) + NLA_ALIGN(request.attribute.nla_len));
  if (send(fd_.get(), &request, request.header.nlmsg_len, 0) < 0) throw_system("nflog request");
  const ssize_t got = recv(fd_.get(), buffer_.data(), buffer_.size(), 0);
  if (got < static_cast<ssize_t>(NLMSG_HDRLEN + sizeof(nlmsgerr))) throw_system("nflog answer");
  nlmsgerr answer{};
  std::memcpy(&answer, buffer_.data() + NLMSG_HDRLEN, sizeof answer);
  return -answer.error;
}

bool NflogGroup::try_bind(std::uint16_t group) {
  nfulnl_msg_config_cmd command{};
  command.command = NFULNL_CFG_CMD_BIND;
  const int code = ask(group, NFULA_CFG_CMD, &command, sizeof command);
  if (code == EPERM || code == EEXIST || code == EBUSY) return false;  // somebody else's
  if (code != 0) throw_errno(code, fmt::format("bind packet log group {}", group));
  nfulnl_msg_config_mode mode{};
  mode.copy_mode = NFULNL_COPY_PACKET;
  mode.copy_range = htonl(0xffff);
  if (const int result = ask(group, NFULA_CFG_MODE, &mode, sizeof mode); result != 0) {
    throw_errno(result, fmt::format("packet log group {}: whole packets", group));
  }
  number_ = group;
  return true;
}

void NflogGroup::take(std::vector<std::string>& packets) {
  for (;;) {
    const ssize_t got = recv(fd_.get(), buffer_.data(), buffer_.size(), MSG_DONTWAIT);
    if (got < 0) {
      if (errno == EAGAIN) return;
      if (errno == EINTR) continue;
      if (errno != ENOBUFS) throw_system("read packets of log group {}", number_);
      ++overflows_;
      continue;
    }
    std::size_t at = 0;
    const auto size = static_cast<std::size_t>(got);
    while (at + NLMSG_HDRLEN <= size) {
      nlmsghdr header{};
      std::memcpy(&header, buffer_.data() + at, sizeof header);
      if (header.nlmsg_len < NLMSG_HDRLEN || at + header.nlmsg_len > size) break;
      if (header.nlmsg_type == ((NFNL_SUBSYS_ULOG << 8) | NFULNL_MSG_PACKET)) {
        const std::string_view packet =
            find_payload(*reinterpret_cast<const nlmsghdr*>(buffer_.data() + at));
        if (!packet.empty()) packets.emplace_back(packet);
      }
      at += NLMSG_ALIGN(header.nlmsg_len);
    }
  }
}

}  // namespace godwit
