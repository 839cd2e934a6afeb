#include "dest-agent/network.h"

#include <optional>

#include "common/base/clock.h"
#include "common/base/error.h"
#include "common/base/log.h"
#include "common/kernel/route_netlink.h"
#include "common/network/addresses.h"
#include "common/network/endpoints.h"
#include "common/network/packet_hold.h"
#include "common/network/packet_replay.h"

namespace godwit {
namespace {

// How long the kernel keeps an address that was added for a migration whose agent has died.
constexpr std::uint32_t kLifetimeSeconds = 300;
constexpr std::int64_t kProlongNs = 60'000'000'000;

EndpointSet endpoints_of(const proto::FdTable& fd_table) {
  EndpointSet endpoints;
  for (const proto::OpenFile& file : fd_table.files()) {
    if (file.has_tcp_socket()) endpoints.add(file.tcp_socket());
    if (file.has_udp_socket()) endpoints.add(file.udp_socket());
  }
  return endpoints;
}

}  // namespace

struct DestNetwork::State {
  State(std::string migration_id, const std::string& addresses)
      : id(std::move(migration_id)),
        moves_addresses(addresses == "move"),
        alone(addresses == "alone"),
        incoming(id) {}

  std::string id;
  bool moves_addresses;
  bool alone;
  PacketReplay replay;
  IncomingAddresses incoming;
  std::vector<proto::MovedAddress> moved;
  std::int64_t prolonged_ns = 0;
  // Packets can come before the announcement, from programs of this host, and between announcement
  // and release from anybody. Taking the hold away is not in the blackout, and takes the kernel so
  // long that nobody whose packets are still on their way here may wait for it.
  std::optional<PacketHold> hold;
  bool delivered = false;
  bool removed = false;
  std::vector<std::string> waiting;  // what the source held

  void replay_waiting();
};

DestNetwork::DestNetwork(const std::string& migration_id, const std::string& addresses)
    : state_(std::make_unique<State>(migration_id, addresses)) {}

DestNetwork::~DestNetwork() = default;

void DestNetwork::preflight(const proto::PreflightRequest& request, Findings& findings) {
  const proto::FdTable& fd_table = request.snapshot().processes(0).fd_table();
  for (const IpAddress& address : endpoints_of(fd_table).local_addresses()) {
    const bool here = has_address(address);
    if (!state_->moves_addresses && !here) {
      refuse(findings, "address-absent", address.text(),
             "a socket uses it but no interface of the destination has it",
             "use --addresses move, or give the destination the address as well");
    }
    if (state_->moves_addresses && here) {
      refuse(findings, "address-taken", address.text(), "the destination has this address already",
             "use --addresses keep, or take it off the destination");
    }
    if (state_->moves_addresses && !here && !home_interface(address, "")) {
      refuse(findings, "address-no-link", address.text(), "is on none of the destination's links",
             "choose a destination on the same network");
    }
  }
}

void DestNetwork::hold(const proto::FdTable& fd_table) {
  if (state_->alone) return;
  const EndpointSet endpoints = endpoints_of(fd_table);
  if (state_->hold) return state_->hold->update(endpoints);
  if (endpoints.empty()) return;
  // Sockets that have left repair mode must be neither answered nor heard when this session is
  // killed before the commit: until whoever recovers has silenced them.
  state_->hold.emplace(state_->id, PacketHold::OnDeath::kStays);
  state_->hold->prepare(endpoints);
  state_->hold->activate(endpoints);
}

void DestNetwork::brace(const proto::Brace& brace) {
  state_->moved.assign(brace.addresses().begin(), brace.addresses().end());
  state_->incoming.add_silently(state_->moved, kLifetimeSeconds);
  state_->prolonged_ns = monotonic_ns();
}

void DestNetwork::prolong() {
  if (state_->moved.empty() || monotonic_ns() - state_->prolonged_ns < kProlongNs) return;
  state_->incoming.prolong(kLifetimeSeconds);
  state_->prolonged_ns = monotonic_ns();
}

PacketReplay& DestNetwork::replay() { return state_->replay; }

void DestNetwork::let_out() {
  if (state_->hold) state_->hold->let_out();
}

void DestNetwork::announce() { state_->incoming.announce(); }

void DestNetwork::take_held(const proto::HeldPackets& packets, bool committed) {
  state_->waiting.insert(state_->waiting.end(), packets.packets().begin(), packets.packets().end());
  if (committed) state_->replay_waiting();
}

void DestNetwork::State::replay_waiting() {
  const std::size_t count = replay.inject_all(waiting);
  if (count != waiting.size()) {
    log_warning("migration={} {} of {} held packets could not be delivered", id,
                waiting.size() - count, waiting.size());
  }
  waiting.clear();
}

void DestNetwork::deliver() {
  state_->replay_waiting();
  if (state_->hold) state_->hold->release(state_->replay);
  state_->delivered = true;
}

int DestNetwork::latecomers_fd() const {
  return state_->hold && state_->delivered ? state_->hold->fd() : -1;
}

int DestNetwork::quiet_ms() const {
  constexpr int kQuietMs = 50;
  return state_->hold && state_->delivered && !state_->removed ? kQuietMs : -1;
}

void DestNetwork::deliver_latecomers() {
  if (state_->hold) state_->replay.inject_all(state_->hold->take());
}

void DestNetwork::remove_hold() {
  if (!state_->hold) return;
  deliver_latecomers();
  state_->hold->remove();
  state_->removed = true;
}

void DestNetwork::keep_addresses() { state_->incoming.keep(); }

void DestNetwork::settle() {
  state_->replay_waiting();
  remove_hold();
  // Once more, for those that heard the source in between.
  state_->incoming.announce();
}

void DestNetwork::remove() {
  // In this order: an address without a hold, on sockets that are gone, is answered by a reset.
  state_->incoming.withdraw();
  state_->hold.reset();
}

std::string DestNetwork::table() const { return state_->hold ? "godwit_" + state_->id : ""; }

void remove_network(const JournalRecord& record, bool discard) {
  for (const std::string& text : record.addresses) {
    const auto address = IpAddress::from_text(text);
    if (!address) continue;
    for (const HostAddress& here : host_addresses()) {
      if (here.address != address->view()) continue;
      if (discard) {
        remove_host_address(here);
      } else {
        // The session died before it said that they stay.
        put_host_address(here, kForeverSeconds, kForeverSeconds);
      }
    }
  }
  // The addresses first: without the rules they would be answered for.
  remove_leftover_rules(record.migration_id);
}

}  // namespace godwit
