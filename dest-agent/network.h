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
  // `addresses`: move, keep, or alone: nobody has a connection that goes on, so nothing is held.
  DestNetwork(const std::string& migration_id, const std::string& addresses);
  ~DestNetwork();
  DestNetwork(const DestNetwork&) = delete;
  DestNetwork& operator=(const DestNetwork&) = delete;

  void preflight(const proto::PreflightRequest& request, Findings& findings);
  // Packets for the sockets are held from their first description on, whether the addresses are
  // here already or come later: a socket that stands would answer them, and no socket a reset.
  void hold(const proto::FdTable& fd_table);
  // The blackout is about to begin: addresses that come along are added here without anybody on the
  // link hearing of it.
  void brace(const proto::Brace& brace);

  // While pages travel: the kernel drops added addresses by itself when nobody prolongs them.
  void prolong();
  // Prepared: what the sockets send goes out from now on. They send nothing before they are
  // released, so this is done while the source decides and not in the switch.
  void let_out();
  // At the switch, before the sockets are released, whose first packets are answered to where the
  // neighbours think the address is: they learn that it is here.
  void announce();
  // Packets that the source held. Before the commit they wait.
  void take_held(const proto::HeldPackets& packets, bool committed);
  PacketReplay& replay();
  // The process runs: what waits is delivered, what the source held first, and nothing is held here
  // any more.
  void deliver();
  // Readable when there was a packet that deliver() was too early for; -1: there will be none.
  int latecomers_fd() const;
  void deliver_latecomers();
  // When nothing has come for so long after that, rules that hold nothing any more may go; -1:
  // there are none.
  int quiet_ms() const;
  void remove_hold();
  // After the switch: the addresses stay.
  void keep_addresses();
  // Nothing of the migration is left but the addresses. What the kernel takes its time to forget
  // is left to the destructor.
  void settle();
  // Not committed: everything that was added goes.
  void remove();

  // For the journal.
  std::string table() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// What a killed session left. `discard`: the addresses too, otherwise they stay for good.
void remove_network(const JournalRecord& record, bool discard);

}  // namespace godwit
