#include "common/network/packet_hold.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>

#include <algorithm>
#include <functional>
#include <map>
#include <utility>

#include "common/base/error.h"
#include "common/base/log.h"
#include "common/kernel/sock_diag.h"
#include "common/network/ip_packet.h"

namespace godwit {
namespace {

constexpr std::size_t kLogBufferBytes = 64 << 20;
constexpr std::size_t kIdBytesMax = 32;
constexpr int kLatecomerMs = 3;
constexpr int kOrderedRounds = 50;

std::string table_name(const std::string& migration_id) {
  const bool plain = std::all_of(migration_id.begin(), migration_id.end(), [](char letter) {
    return (letter >= '0' && letter <= '9') || (letter >= 'a' && letter <= 'z');
  });
  if (!plain || migration_id.empty() || migration_id.size() > kIdBytesMax) {
    fail("migration id \"{}\" is not lower-case letters and digits", migration_id);
  }
  return "godwit_" + migration_id;
}

std::uint16_t first_group(const std::string& table) {
  constexpr std::size_t kGroups = 60000;
  return static_cast<std::uint16_t>(1000 + std::hash<std::string>()(table) % kGroups);
}

// Sets by what a socket claims: a connection, a local address, a port of any address. `open` and
// its sisters are the doors, with the address families as elements.
constexpr std::string_view kSets = R"(set open {
    type nf_proto
  }
  set open_out {
    type nf_proto
  }
  set open_new {
    type nf_proto
  }
  set open_gone {
    type nf_proto
  }
  set pairs4 {
    type inet_proto . ipv4_addr . inet_service . ipv4_addr . inet_service
  }
  set pairs6 {
    type inet_proto . ipv6_addr . inet_service . ipv6_addr . inet_service
  }
  set locals4 {
    type inet_proto . ipv4_addr . inet_service
  }
  set locals6 {
    type inet_proto . ipv6_addr . inet_service
  }
  set ports4 {
    type inet_proto . inet_service
  }
  set ports6 {
    type inet_proto . inet_service
  }
  set gone4 {
    type ipv4_addr
  }
  set gone6 {
    type ipv6_addr
  }
)";

// What PacketReplay injects passes, and never leaves the host.
std::string chains_text(std::uint16_t group) {
  return fmt::format(R"(chain keep {{
    log group {0} queue-threshold 1 drop
  }}
  chain arriving {{
    meta l4proto . ip saddr . th sport . ip daddr . th dport @pairs4 goto keep
    meta l4proto . ip6 saddr . th sport . ip6 daddr . th dport @pairs6 goto keep
    meta l4proto . ip daddr . th dport @locals4 goto keep
    meta l4proto . ip6 daddr . th dport @locals6 goto keep
    meta nfproto ipv4 meta l4proto . th dport @ports4 goto keep
    meta nfproto ipv6 meta l4proto . th dport @ports6 goto keep
  }}
  chain leaving {{
    meta l4proto . ip daddr . th dport . ip saddr . th sport @pairs4 drop
    meta l4proto . ip6 daddr . th dport . ip6 saddr . th sport @pairs6 drop
    meta l4proto . ip saddr . th sport @locals4 drop
    meta l4proto . ip6 saddr . th sport @locals6 drop
    meta nfproto ipv4 meta l4proto . th sport @ports4 drop
    meta nfproto ipv6 meta l4proto . th sport @ports6 drop
  }}
  chain gone {{
    ip daddr @gone4 goto keep
    ip6 daddr @gone6 goto keep
  }}
  chain input {{
    type filter hook input priority -300
    meta mark {1} accept
    tcp flags & (fin | syn | rst | ack) == syn meta nfproto @open_new goto arriving
    meta nfproto @open goto arriving
  }}
  chain output {{
    type filter hook output priority -300
    meta mark {1} oifname != "lo" drop
    meta mark {1} accept
    meta nfproto @open_out goto leaving
  }}
  chain prerouting {{
    type filter hook prerouting priority -300
    meta mark {1} accept
    meta nfproto @open_gone goto gone
  }}
)",
                     group, kReplayMark);
}

std::string table_text(const std::string& table, std::uint16_t group, bool owned) {
  return fmt::format("table inet {} {{\n  {}\n  {}  {}}}\n", table, owned ? "flags owner" : "",
                     kSets, chains_text(group));
}

std::string_view protocol_name(int protocol) { return protocol == IPPROTO_TCP ? "tcp" : "udp"; }

// The set that an endpoint belongs into, and its element there.
std::pair<std::string, std::string> set_element(const Endpoint& endpoint) {
  const std::string family = endpoint.local.family == AF_INET6 ? "6" : "4";
  const std::string_view protocol = protocol_name(endpoint.protocol);
  if (endpoint.local.is_wildcard()) {
    return {"ports" + family, fmt::format("{} . {}", protocol, endpoint.local_port)};
  }
  if (!endpoint.has_remote()) {
    return {"locals" + family,
            fmt::format("{} . {} . {}", protocol, endpoint.local.text(), endpoint.local_port)};
  }
  return {"pairs" + family,
          fmt::format("{} . {} . {} . {} . {}", protocol, endpoint.remote.text(),
                      endpoint.remote_port, endpoint.local.text(), endpoint.local_port)};
}

std::string add_elements(const std::string& table, const EndpointSet& endpoints) {
  std::map<std::string, std::string> sets;
  for (const Endpoint& endpoint : endpoints.all()) {
    const auto [set, element] = set_element(endpoint);
    std::string& list = sets[set];
    list += list.empty() ? element : ", " + element;
  }
  std::string commands;
  for (const auto& [set, list] : sets) {
    commands += fmt::format("add element inet {} {} {{ {} }}\n", table, set, list);
  }
  return commands;
}

std::string open_door(const std::string& table, const char* door) {
  return fmt::format("add element inet {} {} {{ ipv4, ipv6 }}\n", table, door);
}

}  // namespace

PacketHold::PacketHold(const std::string& migration_id, OnDeath on_death)
    : table_(table_name(migration_id)),
      on_death_(on_death),
      log_(first_group(table_), kLogBufferBytes) {
  open_.fill(table_, "open");
  open_.fill(table_, "open_out");
  let_out_.empty(table_, "open_out");
  for (const char* door : {"open", "open_out", "open_new", "open_gone"}) {
    release_.empty(table_, door);
  }
}

PacketHold::~PacketHold() { remove(); }

void PacketHold::remove() {
  if (!std::exchange(prepared_, false)) return;
  if (!nftables_.try_run(fmt::format("delete table inet {}\n", table_))) {
    log_warning("table {} could not be removed", table_);
  }
}

void PacketHold::prepare(const EndpointSet& endpoints) {
  nftables_.run(table_text(table_, log_.number(), on_death_ == OnDeath::kGone));
  prepared_ = true;
  update(endpoints);
}

void PacketHold::add_and_open(const EndpointSet& added, std::initializer_list<const char*> doors) {
  std::string commands = add_elements(table_, added);
  for (const char* door : doors) commands += open_door(table_, door);
  if (!commands.empty()) nftables_.run(commands);
  for (const Endpoint& endpoint : added.all()) known_.add(endpoint);
}

void PacketHold::update(const EndpointSet& endpoints) {
  add_and_open(endpoints.without(known_), {});
}

void PacketHold::hold_new_connections() { nftables_.run(open_door(table_, "open_new")); }

void PacketHold::activate(const EndpointSet& endpoints) {
  const EndpointSet added = endpoints.without(known_);
  if (added.empty()) {
    nftables_.run(open_);
  } else {
    add_and_open(added, {"open", "open_out"});
  }
  output_shut_ = true;
}

void PacketHold::let_out() {
  nftables_.run(let_out_);
  output_shut_ = false;
}

void PacketHold::activate_stragglers(std::span<const IpAddress> addresses) {
  std::string commands;
  for (const IpAddress& address : addresses) {
    commands += fmt::format("add element inet {} {} {{ {} }}\n", table_,
                            address.family == AF_INET6 ? "gone6" : "gone4", address.text());
  }
  nftables_.run(commands + open_door(table_, "open_gone"));
}

std::vector<std::string> PacketHold::take() {
  std::vector<std::string> packets;
  log_.take(packets);
  std::erase_if(packets, [](std::string& packet) { return !complete_checksum(packet); });
  return packets;
}

void PacketHold::release(PacketReplay& replay, std::span<const std::string> taken) {
  if (output_shut_) let_out();  // what is injected gets answers
  replay.inject_all(taken);
  // While the doors are still shut, so that what arrives now stays behind what came before it.
  for (int round = 0; round < kOrderedRounds; ++round) {
    const std::vector<std::string> packets = take();
    if (packets.empty()) break;
    replay.inject_all(packets);
  }
  nftables_.run(release_);
}

void PacketHold::deactivate(PacketReplay& replay, std::span<const std::string> taken) {
  release(replay, taken);
  // Another processor may still be on its way through the rules as they were.
  pollfd waiting{log_.fd(), POLLIN, 0};
  do {
    replay.inject_all(take());
  } while (poll(&waiting, 1, kLatecomerMs) == 1);
}

bool listeners_drained(const EndpointSet& endpoints) {
  EndpointSet listeners;
  for (const Endpoint& endpoint : endpoints.all()) {
    if (endpoint.listening) listeners.add(endpoint);
  }
  if (listeners.empty()) return true;
  const auto is_ours = [&](const InetDiag& socket) {
    const auto address = IpAddress::from_bytes(
        {reinterpret_cast<const char*>(socket.local_address.data()), socket.local_address.size()});
    return address &&
           std::any_of(
               listeners.all().begin(), listeners.all().end(), [&](const Endpoint& endpoint) {
                 return endpoint.local_port == socket.local_port &&
                        (endpoint.local.is_wildcard() || endpoint.local == address->unmapped());
               });
  };
  const auto sockets = inet_diag(IPPROTO_TCP, (1U << TCP_LISTEN) | (1U << TCP_SYN_RECV));
  return std::none_of(sockets.begin(), sockets.end(), [&](const InetDiag& socket) {
    const bool busy = socket.state == TCP_SYN_RECV || socket.receive_queue > 0;
    return busy && is_ours(socket);
  });
}

bool remove_leftover_rules(const std::string& migration_id) {
  Nftables nftables;
  bool removed = false;
  for (const char* family : {"inet", "arp", "ip6"}) {
    removed |=
        nftables.try_run(fmt::format("delete table {} {}\n", family, table_name(migration_id)));
  }
  return removed;
}

}  // namespace godwit
