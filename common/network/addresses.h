// Addresses that move with a process.
//
// On the destination the address is added silently: rules keep the host from answering or asking
// for it (ARP, neighbour discovery), so that sockets can be bound while the source still serves.
// One announcement (gratuitous ARP, unsolicited neighbour advertisement) then moves the traffic.
// The address carries a lifetime until keep(): if the agent dies before the commit, the kernel
// removes it by itself. Until announce() this host reaches the address in itself, not at the
// source: keep the time short, and never move the address that the agents talk over.
//
// On the source it is silenced and removed after the commit. PacketHold::activate_stragglers() gets
// what still arrives for it.
//
// Thread: one network namespace, that of the constructor. Throws Error.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "common/kernel/nftables.h"
#include "common/kernel/packet_socket.h"
#include "common/kernel/route_netlink.h"
#include "common/network/socket_address.h"
#include "proto/addresses.pb.h"

namespace godwit {

bool has_address(const IpAddress& address);

// Why an address can't move away from this host, for people; nullopt: it can.
std::optional<std::string> why_not_movable(const IpAddress& address);

// Those of the list that can move (why_not_movable()).
std::vector<proto::MovedAddress> describe_addresses(std::span<const IpAddress> addresses);

// Its interface has no other address of its family: taking it away would take the routes as well.
bool is_only_address(const IpAddress& address);

// Where an address that is on some other host of a link belongs on this one; nullopt: it is on no
// link of this host. `hint` is an interface to prefer if several would do.
std::optional<int> home_interface(const IpAddress& address, const std::string& hint);

// Says on the link that these addresses of this host are here.
void announce_addresses(std::span<const proto::MovedAddress> addresses);

// Rules that keep this host from speaking of some addresses on the link. They survive the process:
// remove_leftover_rules(). Idempotent.
class AddressSilence {
 public:
  explicit AddressSilence(const std::string& migration_id);
  void begin(std::span<const IpAddress> addresses);
  // This host speaks of them again: the rules are gone, the empty tables stay until end().
  void lift();
  void end();

 private:
  std::string table_;
  Nftables nftables_;
  NftTransaction lift_;  // what lift() does
  bool active_ = false;
};

class IncomingAddresses {
 public:
  explicit IncomingAddresses(const std::string& migration_id);
  ~IncomingAddresses();  // withdraws, unless keep() was called

  // Adds the addresses silently for `seconds`. Throws Error with a hint for one that belongs to no
  // link of this host or is here already.
  void add_silently(std::span<const proto::MovedAddress> addresses, std::uint32_t seconds);
  // Prolongs the lifetime, for a long wait before the commit.
  void prolong(std::uint32_t seconds);
  // Says on the link that the addresses are here, and lets the host answer for them. Tens of
  // microseconds for the frames. May be repeated, for those that heard the source once more.
  void announce();
  // The addresses stay.
  void keep();
  // Takes them away again.
  void withdraw();

 private:
  struct Entry {
    HostAddress address;
    std::string name;
    std::vector<std::string> frames;
    FrameSender* sender = nullptr;
  };
  void build_frames(Entry& entry, const HostInterface& interface);

  AddressSilence silence_;
  std::map<int, FrameSender> senders_;
  std::vector<Entry> entries_;
  bool kept_ = false;
};

class OutgoingAddresses {
 public:
  explicit OutgoingAddresses(const std::string& migration_id);

  // Silences and removes the addresses, and leaves their neighbours on the interface in place.
  void release(std::span<const proto::MovedAddress> addresses);
  // Undoes release(): the addresses are here again, and announced.
  void take_back();
  // Removes the silence after the grace time.
  void finish();

 private:
  AddressSilence silence_;
  std::vector<HostAddress> released_;
};

}  // namespace godwit
