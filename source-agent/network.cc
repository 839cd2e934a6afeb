#include "source-agent/network.h"

#include <netinet/in.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <map>
#include <optional>
#include <set>

#include "common/base/clock.h"
#include "common/base/error.h"
#include "common/base/log.h"
#include "common/kernel/proc_fdinfo.h"
#include "common/kernel/sock_diag.h"
#include "common/kernel/socket_block.h"
#include "common/kernel/socket_options.h"
#include "common/kernel/tcp_repair.h"
#include "common/network/addresses.h"
#include "common/network/endpoints.h"
#include "common/network/packet_hold.h"
#include "common/network/packet_replay.h"
#include "common/network/socket_address.h"
#include "source-agent/capture/tcp_sockets.h"
#include "source-agent/capture/udp_sockets.h"

namespace godwit {
namespace {

constexpr std::int64_t kDrainTimeoutNs = 2'000'000'000;
constexpr int kDrainPollUs = 300;
// Stragglers are waited for until none has come for this long.
constexpr int kQuietMs = 300;
constexpr std::int64_t kForwardMaxNs = 5'000'000'000;

EndpointSet endpoints_of(const proto::FdTable& fd_table) {
  EndpointSet endpoints;
  for (const proto::OpenFile& file : fd_table.files()) {
    if (file.has_tcp_socket()) endpoints.add(file.tcp_socket());
    if (file.has_udp_socket()) endpoints.add(file.udp_socket());
  }
  return endpoints;
}

// Those whose addresses can't change any more.
std::set<std::uint64_t> settled_sockets(const proto::FdTable& fd_table) {
  std::set<std::uint64_t> inodes;
  for (const proto::OpenFile& file : fd_table.files()) {
    const auto state = static_cast<TcpState>(file.tcp_socket().state());
    if (file.has_tcp_socket() && (has_tcp_stream(state) || state == TcpState::kListen)) {
      inodes.insert(file.tcp_socket().inode());
    }
  }
  return inodes;
}

// What EndpointSet wants to know of a socket.
template <typename Socket>
Socket describe_claim(int fd) {
  Socket socket;
  socket.set_family(int_socket_option(fd, SOL_SOCKET, SO_DOMAIN));
  if (const auto local = SocketAddress::local_of(fd)) socket.set_local_address(local->bytes());
  if (const auto remote = SocketAddress::remote_of(fd)) socket.set_remote_address(remote->bytes());
  if (socket.family() == AF_INET6) {
    proto::SocketOption& only_v6 = *socket.add_options();
    only_v6.set_level(IPPROTO_IPV6);
    only_v6.set_name(IPV6_V6ONLY);
    only_v6.set_value(int_option_value(int_socket_option(fd, IPPROTO_IPV6, IPV6_V6ONLY)));
  }
  return socket;
}

void add_claim(const SocketCopy& socket, EndpointSet& endpoints) {
  if (socket.kind == SocketKind::kUdp) {
    endpoints.add(describe_claim<proto::UdpSocket>(socket.agent_fd));
  } else if (socket.kind == SocketKind::kTcp) {
    auto claim = describe_claim<proto::TcpSocket>(socket.agent_fd);
    claim.set_state(static_cast<int>(tcp_facts(socket.agent_fd).state));
    endpoints.add(claim);
  }
}

std::set<std::uint64_t> sockets_of_process(pid_t host_pid) {
  constexpr std::string_view kPrefix = "socket:[";
  std::set<std::uint64_t> inodes;
  const ProcFdDirectory directory(host_pid);
  for (const int fd : directory.list()) {
    const auto link = directory.link(fd);
    if (link && link->starts_with(kPrefix))
      inodes.insert(std::stoull(link->substr(kPrefix.size())));
  }
  return inodes;
}

// "10.0.0.5 TCP port 80" of those that use an address, by inode. One that is not accepted yet, or
// lingers without a process, has no inode.
std::map<std::uint64_t, std::string> sockets_on(const std::vector<IpAddress>& addresses) {
  std::map<std::uint64_t, std::string> found;
  for (const auto& [name, protocol] : {std::pair("TCP", IPPROTO_TCP), {"UDP", IPPROTO_UDP}}) {
    for (const InetDiag& socket : inet_diag(protocol, ~0U)) {
      const auto local =
          IpAddress::from_bytes({reinterpret_cast<const char*>(socket.local_address.data()),
                                 socket.local_address.size()});
      if (!local || socket.inode == 0) continue;
      const IpAddress address = local->unmapped();
      if (std::find(addresses.begin(), addresses.end(), address) == addresses.end()) continue;
      found[socket.inode] = fmt::format("{} {} port {}", address.text(), name, socket.local_port);
    }
  }
  return found;
}

// A socket of another process would lose the address. What the process itself opens and closes
// meanwhile is no such socket: one that was there before the process was looked at, and after, was
// there in between.
void look_for_others(pid_t host_pid, const std::vector<IpAddress>& moving, Findings& findings) {
  auto found = sockets_on(moving);
  const auto forget_own = [&] {
    for (const std::uint64_t inode : sockets_of_process(host_pid)) found.erase(inode);
  };
  forget_own();
  if (found.empty()) return;
  forget_own();
  const auto still_there = sockets_on(moving);
  std::erase_if(found, [&](const auto& entry) { return !still_there.contains(entry.first); });
  std::set<std::string> told;
  for (const auto& [inode, object] : found) {
    if (!told.insert(object).second) continue;
    refuse(findings, "address-shared", object,
           "a socket of another process uses the address that would move away from it",
           "end that process or let it use another address, or use --addresses keep");
  }
}

using AgentFds = std::map<std::uint64_t, int>;  // by inode

AgentFds agent_fds(const std::vector<SocketCopy>& sockets) {
  AgentFds fds;
  for (const SocketCopy& socket : sockets) fds[socket.inode] = socket.agent_fd;
  return fds;
}

proto::HeldPackets to_message(std::vector<std::string> packets) {
  proto::HeldPackets message;
  for (std::string& packet : packets) message.add_packets(std::move(packet));
  return message;
}

}  // namespace

struct SourceNetwork::State {
  State(const std::string& id, bool moves) : hold(id), outgoing(id), moves_addresses(moves) {}

  PacketHold hold;
  OutgoingAddresses outgoing;
  bool moves_addresses;
  std::optional<IpAddress> control_address;
  std::optional<SocketBlock> block;  // made by prepare()
  EndpointSet endpoints;
  std::set<std::uint64_t> claimed;  // inodes of those in `endpoints`
  bool prepared = false;
  bool active = false;
  bool frozen = false;
  bool committed = false;
  bool cut_off = false;            // the destination can't be reached any more
  std::vector<std::string> taken;  // sent to the destination, still ours if it comes to nothing
  std::vector<proto::MovedAddress> moved;

  std::vector<IpAddress> moved_addresses() const;
  void check_addresses() const;
  // Nothing else may be kept from happening by a destination that is gone.
  void forward(Channel& control);
};

std::vector<IpAddress> SourceNetwork::State::moved_addresses() const {
  std::vector<IpAddress> addresses;
  for (const proto::MovedAddress& each : moved) {
    if (const auto address = IpAddress::from_bytes(each.address())) addresses.push_back(*address);
  }
  return addresses;
}

void SourceNetwork::State::check_addresses() const {
  if (!moves_addresses) return;
  const std::vector<IpAddress> moving = moved_addresses();
  for (const IpAddress& address : endpoints.local_addresses()) {
    if (std::find(moving.begin(), moving.end(), address) != moving.end()) continue;
    throw Error(fmt::format("a socket that was opened meanwhile uses {}, which does not move",
                            address.text()))
        .with_hint("see migrate check, and bind the service to the address that is to move");
  }
}

void SourceNetwork::State::forward(Channel& control) {
  const proto::HeldPackets packets = to_message(hold.take());
  if (packets.packets_size() == 0 || cut_off) return;
  try {
    control.send_body(packets);
  } catch (const Error& error) {
    cut_off = true;
    log_warning("packets that still come here are lost: {}", error.what());
  }
}

SourceNetwork::SourceNetwork(const std::string& migration_id, const std::string& addresses,
                             int control_socket)
    : state_(std::make_unique<State>(migration_id, addresses == "move")) {
  if (control_socket < 0) return;
  if (const auto local = SocketAddress::local_of(control_socket)) {
    state_->control_address = local->ip().unmapped();
  }
}

SourceNetwork::~SourceNetwork() = default;

void SourceNetwork::preflight(pid_t host_pid, const proto::FdTable& fd_table,
                              proto::PreflightRequest& request, Findings& findings) {
  const EndpointSet endpoints = endpoints_of(fd_table);
  const std::vector<IpAddress> used = endpoints.local_addresses();
  if (!state_->moves_addresses) return;
  for (const IpAddress& address : used) {
    if (address == state_->control_address) {
      refuse(findings, "address-is-control-line", address.text(),
             "the agents talk to each other over this address: moving it would cut their line",
             "let the agents use another address of the hosts, or use --addresses keep");
    } else if (!has_address(address)) {
      refuse(findings, "address-not-here", address.text(),
             "a socket uses it but no interface of the source has it",
             "use --addresses keep if something else routes it");
    } else if (is_only_address(address)) {
      refuse(findings, "address-only-one", address.text(),
             "its interface has no other address: moving it would take the routes as well",
             "give the service an address of its own, or use --addresses keep");
    } else if (const auto why = why_not_movable(address)) {
      refuse(findings, "address-not-movable", address.text(), *why,
             "bind the service to an address of its own on a link, or use --addresses keep");
    }
  }
  if (used.empty() && !endpoints.empty()) {
    warn(findings, "address-none", "sockets",
         "listen on all addresses of the host: none of them is moved",
         "point clients to the destination yourself, or bind the service to its own address");
  }
  look_for_others(host_pid, used, findings);
  state_->moved = describe_addresses(used);
  for (const proto::MovedAddress& address : state_->moved) *request.add_addresses() = address;
}

proto::Brace SourceNetwork::prepare(const proto::FdTable& fd_table) {
  proto::Brace brace;
  state_->block.emplace();
  state_->endpoints = endpoints_of(fd_table);
  state_->claimed = settled_sockets(fd_table);
  if (state_->moves_addresses) {
    std::vector<IpAddress> used = state_->endpoints.local_addresses();
    std::erase_if(used, [&](const IpAddress& each) { return each == state_->control_address; });
    state_->moved = describe_addresses(used);
    state_->check_addresses();
    for (const proto::MovedAddress& address : state_->moved) *brace.add_addresses() = address;
  }
  if (!state_->endpoints.empty()) state_->hold.prepare(state_->endpoints);
  state_->prepared = !state_->endpoints.empty();
  return brace;
}

void SourceNetwork::drain_listeners() {
  const auto& all = state_->endpoints.all();
  if (std::none_of(all.begin(), all.end(), [](const Endpoint& each) { return each.listening; })) {
    return;
  }
  state_->hold.hold_new_connections();
  const std::int64_t deadline_ns = monotonic_ns() + kDrainTimeoutNs;
  while (!listeners_drained(state_->endpoints)) {
    if (monotonic_ns() > deadline_ns) {
      throw Error("connections wait in the backlog of a listening socket and are not accepted")
          .with_hint("migrate when the program accepts its connections");
    }
    ::usleep(kDrainPollUs);
  }
}

void SourceNetwork::activate(const std::vector<SocketCopy>& sockets) {
  for (const SocketCopy& socket : sockets) {
    if (!state_->claimed.contains(socket.inode)) add_claim(socket, state_->endpoints);
  }
  if (state_->endpoints.empty()) return;
  state_->check_addresses();
  if (!state_->prepared) state_->hold.prepare(state_->endpoints);
  state_->prepared = true;
  state_->hold.activate(state_->endpoints);
  state_->active = true;
}

void SourceNetwork::recheck(const std::vector<SocketCopy>& sockets, proto::FdTable& fd_table) {
  const AgentFds fds = agent_fds(sockets);
  for (proto::OpenFile& file : *fd_table.mutable_files()) {
    if (!file.has_tcp_socket()) continue;
    const auto fd = fds.find(file.tcp_socket().inode());
    if (fd != fds.end()) settle_tcp_stream(fd->second, *file.mutable_tcp_socket());
  }
  for (proto::OpenFile& file : *fd_table.mutable_files()) {
    if (!file.has_udp_socket()) continue;
    const auto fd = fds.find(file.udp_socket().inode());
    if (fd != fds.end()) capture_udp_queue(fd->second, *file.mutable_udp_socket());
  }
}

void SourceNetwork::freeze(const std::vector<SocketCopy>& sockets) {
  state_->frozen = true;
  for (const SocketCopy& socket : sockets) {
    if (socket.kind == SocketKind::kTcp) {
      freeze_tcp_stream(socket.agent_fd, *state_->block, socket.segments_in);
    }
    if (socket.kind == SocketKind::kUdp) freeze_udp_socket(socket.agent_fd, *state_->block);
  }
}

proto::HeldPackets SourceNetwork::take() {
  if (!state_->active) return {};
  std::vector<std::string> packets = state_->hold.take();
  state_->taken.insert(state_->taken.end(), packets.begin(), packets.end());
  return to_message(std::move(packets));
}

void SourceNetwork::after_commit(Channel& control) {
  state_->committed = true;
  state_->taken.clear();
  if (state_->active) state_->forward(control);
  if (state_->moved.empty() || !state_->prepared) return;
  state_->hold.activate_stragglers(state_->moved_addresses());
  state_->active = true;
  state_->outgoing.release(state_->moved);
}

bool SourceNetwork::forward_until(Channel& control, int fd, int timeout_ms) {
  const std::int64_t deadline_ns = monotonic_ns() + timeout_ms * 1'000'000LL;
  for (;;) {
    const std::int64_t left_ms = (deadline_ns - monotonic_ns()) / 1'000'000;
    if (left_ms <= 0) return false;
    pollfd waits[2] = {{fd, POLLIN, 0}, {state_->active ? state_->hold.fd() : -1, POLLIN, 0}};
    if (::poll(waits, 2, static_cast<int>(left_ms)) < 0 && errno != EINTR) throw_system("poll");
    if (waits[1].revents != 0) state_->forward(control);
    if (waits[0].revents != 0) return true;
  }
}

void SourceNetwork::forward_stragglers(Channel& control) {
  if (!state_->active) return;
  const std::int64_t deadline_ns = monotonic_ns() + kForwardMaxNs;
  while (monotonic_ns() < deadline_ns) {
    pollfd wait{state_->hold.fd(), POLLIN, 0};
    if (::poll(&wait, 1, kQuietMs) == 0) return;
    state_->forward(control);
  }
}

void SourceNetwork::roll_back(const std::vector<SocketCopy>& sockets,
                              const proto::FdTable& fd_table) {
  if (!state_->active || state_->committed) return;
  // The destination may have said that the addresses are there.
  if (state_->frozen) announce_addresses(state_->moved);
  state_->hold.let_out();
  // Sockets that were not frozen yet as well: acknowledgements of theirs may have been dropped.
  PacketReplay replay;
  const AgentFds fds = agent_fds(sockets);
  for (const proto::OpenFile& file : fd_table.files()) {
    if (file.has_tcp_socket()) {
      const auto fd = fds.find(file.tcp_socket().inode());
      if (fd != fds.end()) thaw_tcp_stream(fd->second, file.tcp_socket(), replay);
    } else if (file.has_udp_socket()) {
      const auto fd = fds.find(file.udp_socket().inode());
      if (fd != fds.end()) thaw_udp_socket(fd->second, file.udp_socket());
    }
  }
}

void SourceNetwork::remove() {
  if (!state_) return;
  if (state_->committed) {
    state_->outgoing.finish();
  } else if (state_->prepared) {
    PacketReplay replay;
    state_->hold.deactivate(replay, state_->taken);
  }
  state_.reset();
}

void remove_source_network(const JournalRecord& record) {
  remove_leftover_rules(record.migration_id);
}

}  // namespace godwit
