#include "source-agent/capture/udp_sockets.h"

#include <arpa/inet.h>
#include <linux/in6.h>
#include <linux/sockios.h>
#include <linux/udp.h>
#include <netinet/in.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <algorithm>
#include <cstring>
#include <optional>
#include <sstream>

#include "common/base/error.h"
#include "common/base/scope_exit.h"
#include "common/base/unique_fd.h"
#include "common/kernel/socket_options.h"
#include "common/network/socket_address.h"

namespace godwit {
namespace {

constexpr std::size_t kDatagramBytesMax = 65536;

struct MulticastGroup {
  unsigned interface = 0;
  IpAddress address;
};

// A header line "1 lo : ..." for each interface, then lines with a group as one hexadecimal number
// in the order of memory.
std::vector<MulticastGroup> ipv4_groups() {
  std::vector<MulticastGroup> groups;
  std::istringstream lines(read_file("/proc/thread-self/net/igmp"));
  std::string line;
  std::getline(lines, line);
  MulticastGroup group;
  while (std::getline(lines, line)) {
    if (line.empty()) continue;
    if (line[0] != '\t') {
      group.interface = static_cast<unsigned>(std::stoul(line));
      continue;
    }
    const auto number = static_cast<std::uint32_t>(std::stoul(line, nullptr, 16));
    std::memcpy(group.address.bytes.data(), &number, sizeof number);
    groups.push_back(group);
  }
  return groups;
}

// "index name 32-hex-digits ..." each.
std::vector<MulticastGroup> ipv6_groups() {
  std::vector<MulticastGroup> groups;
  const UniqueFd fd = try_open_file("/proc/thread-self/net/igmp6", O_RDONLY);
  if (!fd.valid()) return groups;
  std::istringstream words(read_all(fd.get(), "/proc/thread-self/net/igmp6"));
  std::string name;
  std::string hex;
  std::string rest;
  MulticastGroup group;
  group.address.family = AF_INET6;
  while (words >> group.interface >> name >> hex && std::getline(words, rest)) {
    if (hex.size() != 2 * group.address.bytes.size()) continue;
    for (std::size_t index = 0; index < group.address.bytes.size(); ++index) {
      group.address.bytes[index] =
          static_cast<std::uint8_t>(std::stoul(hex.substr(2 * index, 2), nullptr, 16));
    }
    groups.push_back(group);
  }
  return groups;
}

// The kernel lists groups by interface only; asking a socket for its source filter of a group tells
// whether it is a member.
bool is_member(int fd, const MulticastGroup& group) {
  group_filter filter{};
  filter.gf_interface = group.interface;
  const SocketAddress address(group.address, 0);
  std::memcpy(&filter.gf_group, address.get(), address.size());
  socklen_t bytes = GROUP_FILTER_SIZE(0);
  const int level = group.address.family == AF_INET6 ? static_cast<int>(IPPROTO_IPV6)
                                                     : static_cast<int>(IPPROTO_IP);
  return getsockopt(fd, level, MCAST_MSFILTER, &filter, &bytes) == 0;
}

std::optional<std::string> joined_group(int fd) {
  for (const MulticastGroup& group : ipv4_groups()) {
    if (is_member(fd, group)) return group.address.text();
  }
  if (int_socket_option(fd, SOL_SOCKET, SO_DOMAIN) != AF_INET6) return std::nullopt;
  for (const MulticastGroup& group : ipv6_groups()) {
    if (is_member(fd, group)) return group.address.text();
  }
  return std::nullopt;
}

bool has_corked_data(int fd) {
  if (int_socket_option(fd, IPPROTO_UDP, UDP_CORK) == 0) return false;
  int bytes = 0;
  return ioctl(fd, SIOCOUTQ, &bytes) == 0 && bytes > 0;
}

std::optional<std::string> find_destination(msghdr& message) {
  for (cmsghdr* control = CMSG_FIRSTHDR(&message); control != nullptr;
       control = CMSG_NXTHDR(&message, control)) {
    const bool v4 = control->cmsg_level == IPPROTO_IP && control->cmsg_type == IP_ORIGDSTADDR;
    const bool v6 = control->cmsg_level == IPPROTO_IPV6 && control->cmsg_type == IPV6_ORIGDSTADDR;
    if (v4)
      return std::string(reinterpret_cast<const char*>(CMSG_DATA(control)), sizeof(sockaddr_in));
    if (v6)
      return std::string(reinterpret_cast<const char*>(CMSG_DATA(control)), sizeof(sockaddr_in6));
  }
  return std::nullopt;
}

// False: the queue is at its end.
bool peek_datagram(int fd, std::string& buffer, proto::UdpSocket& socket) {
  sockaddr_storage source{};
  alignas(cmsghdr) char control[1024];
  iovec vector{buffer.data(), buffer.size()};
  msghdr message{};
  message.msg_name = &source;
  message.msg_namelen = sizeof source;
  message.msg_iov = &vector;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  const ssize_t bytes = recvmsg(fd, &message, MSG_PEEK | MSG_DONTWAIT);
  if (bytes < 0) {
    if (errno == EAGAIN) return false;
    throw_system("peek a datagram of descriptor {}", fd);
  }
  proto::Datagram& datagram = *socket.add_queue();
  datagram.set_payload(buffer.data(), static_cast<std::size_t>(bytes));
  datagram.set_source_address(&source, message.msg_namelen);
  if (auto destination = find_destination(message)) {
    datagram.set_destination_address(std::move(*destination));
  }
  return true;
}

// Sets an int option for as long as the object lives.
class BorrowedOption {
 public:
  BorrowedOption(int fd, int level, int name, int value)
      : fd_(fd), level_(level), name_(name), before_(int_socket_option(fd, level, name)) {
    set_socket_option(fd, {level, name, int_option_value(value)});
  }
  BorrowedOption(const BorrowedOption&) = delete;
  BorrowedOption& operator=(const BorrowedOption&) = delete;
  ~BorrowedOption() { try_set_socket_option(fd_, {level_, name_, int_option_value(before_)}); }

 private:
  int fd_;
  int level_;
  int name_;
  int before_;
};

}  // namespace

bool is_udp_socket(int fd) {
  const int family = int_socket_option(fd, SOL_SOCKET, SO_DOMAIN);
  return (family == AF_INET || family == AF_INET6) &&
         int_socket_option(fd, SOL_SOCKET, SO_PROTOCOL) == IPPROTO_UDP;
}

void preflight_udp_socket(int agent_fd, int fd, Findings& findings) {
  const std::string object = fmt::format("fd {}", fd);
  if (is_socket_of_other_network(agent_fd)) {
    refuse(findings, "socket-of-other-network", object,
           "the socket belongs to another network namespace than the agent",
           "run the source agent in the network namespace of the program");
    return;
  }
  if (const auto group = joined_group(agent_fd)) {
    refuse(findings, "udp-multicast", object,
           fmt::format("the socket is a member of the multicast group {}", *group),
           "leave the group for the time of the move");
  }
  if (int_socket_option(agent_fd, IPPROTO_UDP, UDP_GRO) != 0) {
    refuse(findings, "udp-gro", object,
           "UDP_GRO joins datagrams, and held packets can't be joined the same way",
           "let the program switch UDP_GRO off");
  }
  if (int_socket_option(agent_fd, IPPROTO_UDP, UDP_ENCAP) != 0) {
    refuse(findings, "udp-encapsulation", object, "the kernel unpacks a tunnel from this socket",
           "close the tunnel for the time of the move");
  }
  if (const std::string name = socket_interface(agent_fd); !name.empty()) {
    refuse(findings, "socket-bound-to-interface", object,
           fmt::format("the socket is bound to the interface {}; held packets can't reach it there",
                       name),
           "let the program bind to an address instead of an interface");
  }
  if (has_corked_data(agent_fd)) {
    refuse(findings, "udp-corked", object, "a corked datagram is under construction",
           "try again in a moment");
  }
  if (socket_filter(agent_fd) == SocketFilter::kOpaque) {
    refuse(findings, "socket-filter-opaque", object,
           "the socket has an eBPF or locked packet filter, which can't be read back",
           "let the program attach a classic filter without SO_LOCK_FILTER");
  }
}

proto::UdpSocket capture_udp_socket(int agent_fd) {
  if (has_corked_data(agent_fd)) {
    throw Refused("udp-corked", "UDP socket: a corked datagram is under construction",
                  "try again in a moment");
  }
  proto::UdpSocket socket;
  socket.set_family(int_socket_option(agent_fd, SOL_SOCKET, SO_DOMAIN));
  if (const auto local = SocketAddress::local_of(agent_fd))
    socket.set_local_address(local->bytes());
  if (const auto remote = SocketAddress::remote_of(agent_fd)) {
    socket.set_remote_address(remote->bytes());
  }
  struct stat status {};
  if (fstat(agent_fd, &status) != 0) throw_system("fstat of socket {}", agent_fd);
  socket.set_inode(status.st_ino);
  socket.set_owner_uid(status.st_uid);
  socket.set_owner_gid(status.st_gid);
  for (SocketOptionValue& option :
       changed_socket_options(agent_fd, socket.family(), SOCK_DGRAM, IPPROTO_UDP)) {
    proto::SocketOption& added = *socket.add_options();
    added.set_level(option.level);
    added.set_name(option.name);
    added.set_value(std::move(option.value));
  }
  return socket;
}

void capture_udp_queue(int agent_fd, proto::UdpSocket& socket) {
  // An empty datagram is shown by peeking with an offset only once. What was captured before is
  // still the beginning of the queue, so only what follows its datagrams with content is new.
  proto::UdpSocket before;
  before.mutable_queue()->Swap(socket.mutable_queue());
  socket.clear_queue();
  // Each peek goes on where the one before ended; the program's own offset comes back afterwards.
  const BorrowedOption offset(agent_fd, SOL_SOCKET, SO_PEEK_OFF, 0);
  const BorrowedOption destination(agent_fd, IPPROTO_IP, IP_RECVORIGDSTADDR, 1);
  std::optional<BorrowedOption> destination_v6;
  if (socket.family() == AF_INET6) {
    destination_v6.emplace(agent_fd, IPPROTO_IPV6, IPV6_RECVORIGDSTADDR, 1);
  }
  std::string buffer(kDatagramBytesMax, '\0');
  while (peek_datagram(agent_fd, buffer, socket)) {
  }
  const auto known =
      std::count_if(before.queue().begin(), before.queue().end(),
                    [](const auto& datagram) { return !datagram.payload().empty(); });
  if (socket.queue_size() < known) {
    fail("the queue of UDP socket {} shrank: {} datagrams, {} before", agent_fd,
         socket.queue_size(), known);
  }
  for (auto next = socket.queue().begin() + known; next != socket.queue().end(); ++next) {
    *before.add_queue() = *next;
  }
  before.mutable_queue()->Swap(socket.mutable_queue());
}

void freeze_udp_socket(int agent_fd, const SocketBlock& block) { block.block(agent_fd); }

void thaw_udp_socket(int agent_fd, const proto::UdpSocket& socket) {
  std::optional<std::string> own_filter;
  for (const proto::SocketOption& option : socket.options()) {
    if (option.level() == SOL_SOCKET && option.name() == SO_ATTACH_FILTER)
      own_filter = option.value();
  }
  unblock_socket_input(agent_fd, own_filter);
}

}  // namespace godwit
