// The source's half of moving sockets: packets are held from the freeze on, carried to the
// destination, and, when the addresses have gone there, so are the stragglers.
#pragma once

#include <sys/types.h>

#include <memory>
#include <string>
#include <vector>

#include "common/model/findings.h"
#include "common/model/journal.h"
#include "common/wire/channel.h"
#include "proto/control.pb.h"
#include "proto/fd_table.pb.h"
#include "source-agent/capture/fd_table.h"

namespace godwit {

class SourceNetwork {
 public:
  // `addresses`: move or keep. `control_socket`: the connection to the destination, whose own
  // address must not be moved away from under it; -1: there is none.
  SourceNetwork(const std::string& migration_id, const std::string& addresses, int control_socket);
  ~SourceNetwork();
  SourceNetwork(const SourceNetwork&) = delete;
  SourceNetwork& operator=(const SourceNetwork&) = delete;

  // Also says in `request` which addresses come along.
  void preflight(pid_t host_pid, const proto::FdTable& fd_table, proto::PreflightRequest& request,
                 Findings& findings);

  // --- Before the blackout. Milliseconds.
  // Returns what the destination has to make ready. Throws Error when a socket uses an address by
  // now that can't move.
  proto::Brace prepare(const proto::FdTable& fd_table);
  // Holds new connections back until those underway have reached the program. Throws Error when
  // they don't in time.
  void drain_listeners();

  // --- The blackout
  // Nothing comes in for these sockets and nothing goes out from here on.
  void activate(const std::vector<SocketCopy>& sockets);
  // Streams into which a packet came while the hold took effect are captured again, until none did;
  // then the same for datagrams.
  void recheck(const std::vector<SocketCopy>& sockets, proto::FdTable& fd_table);
  // The commit is about to be sent: nothing comes into these sockets any more, whatever becomes of
  // this agent, and closing them is silent.
  void freeze(const std::vector<SocketCopy>& sockets);
  proto::HeldPackets take();

  // --- After the commit
  // The addresses are no longer this host's; packets for them are still caught. Sends what came
  // since take().
  void after_commit(Channel& control);
  // Sends what still comes in until `fd` is readable; false when that takes too long.
  bool forward_until(Channel& control, int fd, int timeout_ms);
  // Sends what still comes in, until nothing has for a while.
  void forward_stragglers(Channel& control);

  // --- The way back, and the end
  // Before the process goes on: its sockets are as they were, and may send.
  void roll_back(const std::vector<SocketCopy>& sockets, const proto::FdTable& fd_table);
  // Once it does: held packets that the destination never used go back into the local stack. After
  // a commit there are none. Rules are removed.
  void remove();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// What a killed agent left: rules and silenced addresses.
void remove_source_network(const JournalRecord& record);

}  // namespace godwit
