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

EndpointSet endpoints_of(const proto::FdTable& fd_table, std::set<std::uint64_t>& inodes) {
  EndpointSet endpoints;
  for (const proto::OpenFile& file : fd_table.files()) {
    if (file.has_tcp_socket()) {
      endpoints.add(file.tcp_socket());
      inodes.insert(file.tcp_socket().inode());
    } else if (file.has_udp_socket()) {
      endpoints.add(file.udp_socket());
      inodes.insert(file.udp_socket().inode());
    }
  }
  return endpoints;
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
  EndpointSet endpoints;
  std::set<std::uint64_t> known_inodes;
  bool prepared = false;
  bool active = false;
  bool frozen = false;
  bool committed = false;
  std::vector<std::string> taken;  // sent to the destination, still ours if it comes to nothing
  std::vector<proto::MovedAddress> moved;
};

SourceNetwork::SourceNetwork(const std::string& migration_id, const std::string& addresses,
                             int control_socket)
    : state_(std::make_unique<State>(migration_id, addresses == "move")) {
  if (const auto local = SocketAddress::local_of(control_socket)) {
    state_->control_address = local->ip().unmapped();
  }
}

SourceNetwork::~SourceNetwork() = default;

void SourceNetwork::preflight(const proto::FdTable& fd_table, proto::PreflightRequest& request,
                              Findings& findings) {
  std::set<std::uint64_t> inodes;
  const EndpointSet endpoints = endpoints_of(fd_table, inodes);
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
    }
  }
  if (used.empty() && !endpoints.empty()) {
    warn(findings, "address-none", "sockets",
         "listen on all addresses of the host: none of them is moved",
         "point clients to the destination yourself, or bind the service to its own address");
  }
  state_->moved = describe_addresses(used);
  for (const proto::MovedAddress& address : state_->moved) *request.add_addresses() = address;
}

void SourceNetwork::prepare(const proto::FdTable& fd_table) {
  state_->endpoints = endpoints_of(fd_table, state_->known_inodes);
  state_->hold.prepare(state_->endpoints);
  state_->prepared = true;
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
    if (state_->known_inodes.contains(socket.inode)) continue;
    if (socket.kind == SocketKind::kTcp) state_->endpoints.add(capture_tcp_socket(socket.agent_fd));
    if (socket.kind == SocketKind::kUdp) state_->endpoints.add(capture_udp_socket(socket.agent_fd));
  }
  if (state_->endpoints.empty()) return;
  state_->hold.activate(state_->endpoints);
  state_->active = true;
}

void SourceNetwork::recheck_streams(const std::vector<SocketCopy>& sockets,
                                    proto::FdTable& fd_table) {
  std::map<std::uint64_t, int> agent_fds;
  for (const SocketCopy& socket : sockets) agent_fds[socket.inode] = socket.agent_fd;
  for (proto::OpenFile& file : *fd_table.mutable_files()) {
    if (!file.has_tcp_socket() || !file.tcp_socket().has_stream()) continue;
    const auto fd = agent_fds.find(file.tcp_socket().inode());
    if (fd == agent_fds.end()) continue;
    if (tcp_stream_changed(fd->second, file.tcp_socket())) {
      capture_tcp_stream(fd->second, *file.mutable_tcp_socket());
    }
  }
}

void SourceNetwork::freeze_streams(const std::vector<SocketCopy>& sockets) {
  state_->frozen = true;
  for (const SocketCopy& socket : sockets) {
    if (socket.kind == SocketKind::kTcp) freeze_tcp_stream(socket.agent_fd);
  }
}

proto::HeldPackets SourceNetwork::take() {
  if (!state_->active) return {};
  std::vector<std::string> packets = state_->hold.take();
  state_->taken.insert(state_->taken.end(), packets.begin(), packets.end());
  return to_message(std::move(packets));
}

void SourceNetwork::after_commit() {
  state_->committed = true;
  state_->taken.clear();
  if (state_->moved.empty()) return;
  std::vector<IpAddress> addresses;
  for (const proto::MovedAddress& moved : state_->moved) {
    if (const auto address = IpAddress::from_bytes(moved.address())) addresses.push_back(*address);
  }
  state_->hold.activate_stragglers(addresses);
  state_->active = true;
  state_->outgoing.release(state_->moved);
}

void SourceNetwork::forward_stragglers(Channel& control) {
  if (!state_->active) return;
  const std::int64_t deadline_ns = monotonic_ns() + kForwardMaxNs;
  for (;;) {
    pollfd wait{state_->hold.fd(), POLLIN, 0};
    const int ready = ::poll(&wait, 1, kQuietMs);
    if (ready == 0 || monotonic_ns() > deadline_ns) return;
    const proto::HeldPackets packets = to_message(state_->hold.take());
    if (packets.packets_size() > 0) control.send_body(packets);
  }
}

void SourceNetwork::roll_back_streams(const std::vector<SocketCopy>& sockets,
                                      const proto::FdTable& fd_table) {
  if (!state_->frozen) return;
  PacketReplay replay;
  std::map<std::uint64_t, int> agent_fds;
  for (const SocketCopy& socket : sockets) agent_fds[socket.inode] = socket.agent_fd;
  for (const proto::OpenFile& file : fd_table.files()) {
    if (!file.has_tcp_socket()) continue;
    const auto fd = agent_fds.find(file.tcp_socket().inode());
    if (fd != agent_fds.end()) thaw_tcp_stream(fd->second, file.tcp_socket(), replay);
  }
}

void SourceNetwork::remove() {
  if (!state_) return;
  if (!state_->prepared || state_->committed) {
    if (state_->committed) state_->outgoing.finish();
    state_.reset();
    return;
  }
  PacketReplay replay;
  state_->hold.deactivate(replay, state_->taken);
  state_.reset();
}

void remove_source_network(const JournalRecord& record) {
  remove_leftover_rules(record.migration_id);
}

}  // namespace godwit
