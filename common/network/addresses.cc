#include "common/network/addresses.h"

#include <linux/if_addr.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <thread>

#include "common/base/clock.h"
#include "common/base/error.h"
#include "common/base/log.h"
#include "common/base/scope_exit.h"
#include "common/base/unique_fd.h"
#include "common/network/announcement.h"

namespace godwit {
namespace {

constexpr std::int64_t kUseNsMax = 2'000'000'000;

IpAddress parse(const std::string& bytes) {
  const auto address = IpAddress::from_bytes(bytes);
  if (!address) fail("malformed address of {} bytes", bytes.size());
  return *address;
}

std::optional<HostAddress> find_address(const IpAddress& address) {
  for (HostAddress& candidate : host_addresses()) {
    if (candidate.address == address.view()) return std::move(candidate);
  }
  return std::nullopt;
}

std::optional<HostInterface> find_interface(int index) {
  for (HostInterface& candidate : host_interfaces()) {
    if (candidate.index == index) return std::move(candidate);
  }
  return std::nullopt;
}

bool same_prefix(std::string_view one, std::string_view other, int bits) {
  const auto whole = static_cast<std::size_t>(bits / 8);
  if (one.size() != other.size() || whole > one.size()) return false;
  if (one.substr(0, whole) != other.substr(0, whole)) return false;
  const int rest = bits % 8;
  if (rest == 0) return true;
  const int mask = 0xff << (8 - rest);
  return ((one[whole] ^ other[whole]) & mask & 0xff) == 0;
}

// IPv6 addresses come into use by a worker of the kernel, a moment after they were added.
void await_use(const IpAddress& address) {
  if (address.family != AF_INET6) return;
  const std::int64_t deadline = monotonic_ns() + kUseNsMax;
  for (;;) {
    if (is_delivered_here(std::string(address.view()))) return;
    if (monotonic_ns() > deadline) fail("{} does not come into use", address.text());
    std::this_thread::sleep_for(std::chrono::microseconds(100));
  }
}

void send_announcement(const HostAddress& address) {
  const auto interface = find_interface(address.interface);
  if (!interface || !interface->ethernet) return;
  FrameSender sender(address.interface);
  for (const std::string& frame :
       announcement_frames(parse(address.address), interface->hardware_address)) {
    sender.send(frame);
  }
}

// Removing the first address of a prefix removes the others with it, unless they are promoted.
bool remove_alone(const HostAddress& address, const std::string& interface) {
  if (address.address.size() != 4) return remove_host_address(address);
  const std::string path = fmt::format("/proc/sys/net/ipv4/conf/{}/promote_secondaries", interface);
  const std::string before = read_file(path);
  write_file(path, "1");
  ScopeExit undo([&] {
    try {
      write_file(path, before);
    } catch (const Error& error) {
      log_warning("{}", error.what());
    }
  });
  return remove_host_address(address);
}

}  // namespace

bool has_address(const IpAddress& address) { return find_address(address).has_value(); }

bool is_only_address(const IpAddress& address) {
  const std::vector<HostAddress> all = host_addresses();
  const auto own = std::find_if(all.begin(), all.end(), [&](const HostAddress& candidate) {
    return candidate.address == address.view();
  });
  if (own == all.end()) return false;
  return std::count_if(all.begin(), all.end(), [&](const HostAddress& candidate) {
           return candidate.interface == own->interface &&
                  candidate.address.size() == own->address.size() &&
                  !parse(candidate.address).is_link_local();
         }) == 1;
}

std::optional<std::string> why_not_movable(const IpAddress& address) {
  if (address.is_link_local()) return "it is a link-local address, which belongs to its link";
  const auto here = find_address(address);
  if (!here) return "it is not an address of this host";
  const auto interface = find_interface(here->interface);
  if (!interface || interface->loopback) return "it is on the loopback interface";
  if (!is_only_address(address)) return std::nullopt;
  return fmt::format("it is the only address of {}: without it this host loses its routes there",
                     interface->name);
}

std::vector<proto::MovedAddress> describe_addresses(std::span<const IpAddress> addresses) {
  std::vector<proto::MovedAddress> found;
  for (const IpAddress& address : addresses) {
    if (why_not_movable(address)) continue;
    const auto here = find_address(address);
    const auto interface = here ? find_interface(here->interface) : std::nullopt;
    if (!interface) continue;
    proto::MovedAddress& moved = found.emplace_back();
    moved.set_address(here->address);
    moved.set_prefix_length(static_cast<std::uint32_t>(here->prefix_length));
    moved.set_interface(interface->name);
  }
  return found;
}

std::optional<int> home_interface(const IpAddress& address, const std::string& hint) {
  std::optional<int> found;
  const std::vector<HostAddress> addresses = host_addresses();
  for (const HostInterface& interface : host_interfaces()) {
    if (interface.loopback || !interface.up) continue;
    const bool on_link =
        std::any_of(addresses.begin(), addresses.end(), [&](const HostAddress& candidate) {
          return candidate.interface == interface.index &&
                 same_prefix(candidate.address, address.view(), candidate.prefix_length);
        });
    if (on_link && (!found || interface.name == hint)) found = interface.index;
  }
  return found ? found : on_link_interface(std::string(address.view()));
}

void announce_addresses(std::span<const proto::MovedAddress> addresses) {
  for (const proto::MovedAddress& moved : addresses) {
    if (const auto here = find_address(parse(moved.address()))) send_announcement(*here);
  }
}

AddressSilence::AddressSilence(const std::string& migration_id) : table_("godwit_" + migration_id) {
  lift_.flush("arp", table_);
  lift_.flush("ip6", table_);
}

void AddressSilence::begin(std::span<const IpAddress> addresses) {
  std::string arp_in;
  std::string arp_out;
  std::string nd_in;
  std::string nd_out;
  for (const IpAddress& address : addresses) {
    const std::string text = address.text();
    if (address.family == AF_INET) {
      arp_in += fmt::format("    arp daddr ip {} drop\n", text);
      arp_out += fmt::format("    arp saddr ip {} drop\n", text);
      continue;
    }
    // The target of a solicitation or advertisement: 64 bits into ICMPv6.
    std::string target = "0x";
    for (const std::uint8_t byte : address.bytes) target += fmt::format("{:02x}", byte);
    nd_in += fmt::format("    icmpv6 type nd-neighbor-solicit @th,64,128 {} drop\n", target);
    nd_out += fmt::format("    icmpv6 type nd-neighbor-advert @th,64,128 {} drop\n", target);
    nd_out += fmt::format("    icmpv6 type nd-neighbor-solicit ip6 saddr {} drop\n", text);
  }
  end();
  nftables_.run(fmt::format(R"(table arp {0} {{
  chain input {{
    type filter hook input priority 0
{1}  }}
  chain output {{
    type filter hook output priority 0
{2}  }}
}}
table ip6 {0} {{
  chain input {{
    type filter hook input priority -300
{3}  }}
  chain output {{
    type filter hook output priority -300
{4}  }}
}}
)",
                            table_, arp_in, arp_out, nd_in, nd_out));
  active_ = true;
}

void AddressSilence::lift() {
  if (!active_) return;
  // Its chains stay for end(): taking a hook away patches the kernel's code on every processor.
  nftables_.run(lift_);
}

void AddressSilence::end() {
  if (!active_) return;
  nftables_.run(fmt::format("delete table arp {0}\ndelete table ip6 {0}\n", table_));
  active_ = false;
}

IncomingAddresses::IncomingAddresses(const std::string& migration_id) : silence_(migration_id) {}

IncomingAddresses::~IncomingAddresses() {
  if (kept_) return;
  try {
    withdraw();
  } catch (const Error& error) {
    log_warning("withdrawing moved addresses: {}", error.what());
  }
}

void IncomingAddresses::add_silently(std::span<const proto::MovedAddress> addresses,
                                     std::uint32_t seconds) {
  std::vector<IpAddress> quiet;
  std::vector<Entry> wanted;
  for (const proto::MovedAddress& moved : addresses) {
    const IpAddress address = parse(moved.address());
    if (moved.prefix_length() > address.size() * 8) fail("malformed prefix length");
    if (has_address(address)) {
      throw Error(fmt::format("{} is an address of this host already", address.text()), EEXIST,
                  "use --addresses keep, or remove it here");
    }
    const auto home = home_interface(address, moved.interface());
    if (!home) {
      throw Error(fmt::format("{} is on no link of this host", address.text()), ENETUNREACH,
                  "an address can move only within a link; use --addresses keep and reroute it");
    }
    Entry entry;
    entry.name = address.text();
    entry.address.address = moved.address();
    entry.address.prefix_length = static_cast<int>(moved.prefix_length());
    entry.address.interface = *home;
    if (const auto interface = find_interface(*home)) build_frames(entry, *interface);
    wanted.push_back(std::move(entry));
    quiet.push_back(address);
  }
  if (wanted.empty()) return;
  silence_.begin(quiet);
  for (Entry& entry : wanted) {
    put_host_address(entry.address, seconds, 0);
    entries_.push_back(std::move(entry));
  }
  for (const IpAddress& address : quiet) await_use(address);
}

void IncomingAddresses::build_frames(Entry& entry, const HostInterface& interface) {
  if (!interface.ethernet) return;  // nobody on such a link keeps hardware addresses
  entry.frames = announcement_frames(parse(entry.address.address), interface.hardware_address);
  entry.sender = &senders_.try_emplace(interface.index, interface.index).first->second;
}

void IncomingAddresses::prolong(std::uint32_t seconds) {
  for (const Entry& entry : entries_) put_host_address(entry.address, seconds, 0);
}

void IncomingAddresses::announce() {
  for (Entry& entry : entries_) {
    for (const std::string& frame : entry.frames) entry.sender->send(frame);
  }
  // Before the first packet from these addresses: this host has to ask for its receiver.
  silence_.lift();
}

void IncomingAddresses::keep() {
  kept_ = true;
  silence_.end();
  for (const Entry& entry : entries_) {
    put_host_address(entry.address, kForeverSeconds, kForeverSeconds);
  }
}

void IncomingAddresses::withdraw() {
  for (const Entry& entry : entries_) {
    const auto interface = find_interface(entry.address.interface);
    if (interface) remove_alone(entry.address, interface->name);
  }
  entries_.clear();
  silence_.end();
}

OutgoingAddresses::OutgoingAddresses(const std::string& migration_id) : silence_(migration_id) {}

void OutgoingAddresses::release(std::span<const proto::MovedAddress> addresses) {
  std::vector<IpAddress> quiet;
  for (const proto::MovedAddress& moved : addresses) quiet.push_back(parse(moved.address()));
  if (quiet.empty()) return;
  silence_.begin(quiet);
  for (const IpAddress& address : quiet) {
    const auto here = find_address(address);
    const auto interface = here ? find_interface(here->interface) : std::nullopt;
    if (!interface) continue;
    if (remove_alone(*here, interface->name)) released_.push_back(*here);
  }
}

void OutgoingAddresses::take_back() {
  silence_.end();
  for (const HostAddress& address : released_) {
    if ((address.flags & IFA_F_NOPREFIXROUTE) != 0) {
      put_host_address(address, kForeverSeconds, kForeverSeconds);
    } else {
      put_host_address_with_route(address);
    }
    send_announcement(address);
  }
  released_.clear();
}

void OutgoingAddresses::finish() { silence_.end(); }

}  // namespace godwit
