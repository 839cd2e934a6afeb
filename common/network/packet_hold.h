// PacketHold: keeps the packets of some sockets away from the local stack, and keeps them.
//
// One nftables table of its own with two doors. The rules stand from prepare() on, with the
// sockets' addresses in sets; a door is one element in a set, so that opening it is one transaction
// of the kernel, however many sockets there are. A rule logs and drops: each packet is either
// delivered or captured, never both and never neither.
//
//   first door   hold_new_connections(): only SYNs are held, while what the listeners have half
//   done
//                goes on and drains (listeners_drained())
//   second door  activate(), let_out(): everything for these sockets is held, and nothing of theirs
//   goes out:
//                an answer that left now would acknowledge bytes that are not in the capture
//   third door   activate_stragglers(): everything for addresses that are not this host's any more
//
// The table has `flags owner` if it is to be gone, and packets to flow again, when the process
// dies.
//
// A packet that another processor carried past the rules before the door opened can still reach its
// socket a moment later: whoever captures sockets looks a second time (tcp_stream_changed()).
//
// Thread: the one that made it, in its network namespace. Throws Error.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <span>
#include <string>
#include <vector>

#include "common/kernel/nflog.h"
#include "common/kernel/nftables.h"
#include "common/network/endpoints.h"
#include "common/network/packet_replay.h"

namespace godwit {

class PacketHold {
 public:
  // What becomes of the rules when this process dies: the kernel takes them away at once, or they
  // stay until remove_leftover_rules().
  enum class OnDeath { kGone, kStays };
  // `migration_id`: 16 hex digits; the table is called godwit_<id>.
  explicit PacketHold(const std::string& migration_id, OnDeath on_death = OnDeath::kGone);
  ~PacketHold();  // removes the table; held packets that nobody took are lost
  PacketHold(const PacketHold&) = delete;
  PacketHold& operator=(const PacketHold&) = delete;

  // Table, rules and addresses; every door is closed. Milliseconds.
  void prepare(const EndpointSet& endpoints);
  // Brings the addresses up to date; doors stay as they are.
  void update(const EndpointSet& endpoints);

  void hold_new_connections();
  // Addresses that came up since prepare() go in with the same transaction.
  void activate(const EndpointSet& endpoints);
  // What the sockets send goes out again, while what comes in is still held: before sockets are
  // released (destination) or thawed (source, rollback), whose first packets must not be lost.
  void let_out();
  // Packets for these addresses, whatever they are, before they are routed. The address may be this
  // host's still, or no more.
  void activate_stragglers(std::span<const IpAddress> addresses);

  // The packets so far, whole and with complete checksums, in the order they came in. Damaged ones
  // are left out, as the stack would.
  std::vector<std::string> take();
  // Readable when there is something to take.
  int fd() const { return log_.fd(); }
  // Times that packets were lost for want of room (64 MiB).
  std::uint64_t overflows() const { return log_.overflows(); }

  // Closes all doors and gives `taken`, then what nobody took yet, to the local stack. A packet
  // that was inside the rules when they closed may be there to take() a moment later.
  void release(PacketReplay& replay, std::span<const std::string> taken = {});
  // The same, and waits 3 ms for such packets.
  void deactivate(PacketReplay& replay, std::span<const std::string> taken = {});
  // The table goes. The destructor does that too, and waits up to 30 ms for the kernel to have
  // forgotten all of it.
  void remove();

 private:
  void add_and_open(const EndpointSet& added, std::initializer_list<const char*> doors);

  std::string table_;
  OnDeath on_death_;
  NflogGroup log_;
  Nftables nftables_;
  NftTransaction open_;  // what activate() does when the addresses are all there
  NftTransaction let_out_;
  NftTransaction release_;
  EndpointSet known_;
  bool prepared_ = false;
  bool output_shut_ = false;
};

// Half-open requests and connections not accepted yet of these listeners are none: freezing now
// loses no connection.
bool listeners_drained(const EndpointSet& endpoints);

// Removes the tables of a migration whose processes are gone. True if there was one.
bool remove_leftover_rules(const std::string& migration_id);

}  // namespace godwit
