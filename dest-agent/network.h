// The destination's half of moving sockets: addresses come here silently, are announced at the
// switch, and what the source held is delivered.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "common/model/findings.h"
#include "common/model/journal.h"
#include "common/network/packet_replay.h"
#include "proto/control.pb.h"
#include "proto/fd_table.pb.h"

namespace godwit {

class DestNetwork {
 public:
  // `addresses`: move or keep.
  DestNetwork(const std::string& migration_id, const std::string& addresses);
  ~DestNetwork();
  DestNetwork(const DestNetwork&) = delete;
  DestNetwork& operator=(const DestNetwork&) = delete;

  void preflight(const proto::PreflightRequest& request, Findings& findings);
  // Addresses that have to come along are added here without anybody hearing of it. With addresses
  // that are here already, packets for the sockets are held from now on.
  void prepare(const proto::FdTable& fd_table);
  // The sockets of a later description.
  void build(const proto::FdTable& fd_table);

  // While pages travel: the kernel drops added addresses by itself when nobody prolongs them.
  void prolong();
  // At the switch: neighbours learn where the addresses are now.
  void announce();
  // Packets that the source held. Before the commit they wait.
  void take_held(const proto::HeldPackets& packets, bool committed);
  PacketReplay& replay();
  void replay_waiting();
  // After the switch: the addresses stay.
  void keep_addresses();
  // Nothing of the migration is left but the addresses.
  void settle();
  // Not committed: everything that was added goes.
  void remove();

  // For the journal.
  std::vector<std::string> added_addresses() const;
  std::string table() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// What a killed session left. `discard`: the addresses too.
void remove_network(const JournalRecord& record, bool discard);

}  // namespace godwit
