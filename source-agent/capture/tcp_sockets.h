// TCP sockets: what they are, read from the agent's own duplicate (pidfd_getfd(2)). Nothing here
// stops or changes the process; functions throw Error, or Refused for what can't be moved.
//
// Life of a connection in a migration, on the source:
//   describe       capture_tcp_socket()   any time: addresses, options, state
//   blackout       capture_tcp_stream()   process stopped, packets held (PacketHold active): queues
//                                         and sequence numbers. Repair mode is on only for these
//                                         few microseconds, so that an agent that dies before the
//                                         commit leaves the connection working.
//                  tcp_stream_changed()   last look: did a packet that was already on its way past
//                                         the hold come in? Then capture it again.
//   commit         freeze_tcp_stream()    from here nothing comes in and closing is silent
//   rollback       thaw_tcp_stream()      the connection goes on here; the peer hears of it, so
//                                         PacketHold::let_out() comes before, deactivate() after it
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>

#include "common/kernel/sock_diag.h"
#include "common/kernel/socket_block.h"
#include "common/kernel/tcp_repair.h"
#include "common/model/findings.h"
#include "common/network/packet_replay.h"
#include "proto/control.pb.h"
#include "proto/tcp_sockets.pb.h"

namespace godwit {

// Includes MPTCP, which preflight refuses.
bool is_tcp_socket(int fd);

// The sockets of the migrating process among all of its network namespace: who sits at the other
// end of a local connection. One dump of the kernel's table.
class ProcessSockets {
 public:
  // `inodes` are those of every socket that the process has open.
  explicit ProcessSockets(std::set<std::uint64_t> inodes);

  bool owns(std::uint64_t inode) const { return inodes_.contains(inode); }
  // nullptr: not a TCP socket of this namespace.
  const InetDiag* find(std::uint64_t inode) const;
  // The other end of a connection within this host; nullptr when it is elsewhere.
  const InetDiag* other_end(const InetDiag& socket) const;

 private:
  std::set<std::uint64_t> inodes_;
  std::vector<InetDiag> sockets_;
  std::map<std::uint64_t, const InetDiag*> by_inode_;
  std::map<std::string, const InetDiag*> by_addresses_;
};

// A connection that is being made can't be moved: it is either made or refused in a moment.
// `object` is the socket's name for the finding.
void examine_tcp_connecting(int agent_fd, const std::string& object, Findings& findings);

// Everything about this socket that would stop the migration. `fd` is its number in the process.
void preflight_tcp_socket(int agent_fd, int fd, const ProcessSockets& sockets, Findings& findings);

// Everything except the stream.
proto::TcpSocket capture_tcp_socket(int agent_fd);
// The same of a socket that was described a moment ago: reads only what programs change while they
// work (OptionPace). About 15 system calls instead of 70.
proto::TcpSocket capture_tcp_socket_again(int agent_fd, const proto::TcpSocket& before);
// What capture_tcp_socket_again() took for unchanged and is not, for a socket that stands still
// since (in repair mode or not).
// `ahead`: look_at_tcp_connection() has described it.
void find_tcp_corrections(int agent_fd, const proto::TcpSocket& before, bool ahead,
                          proto::SocketCorrection& out);
// A connection that was described a moment ago, with its stream; nothing when its state has changed
// since. Its two ends and the options that the making of the socket does not rest on (OptionPace)
// are taken from before: confirm_tcp_connection() looks at them.
// `receive_shutdown`: as poll(2) says.
std::optional<proto::TcpSocket> capture_tcp_connection(int agent_fd, const proto::TcpSocket& before,
                                                       const TcpFacts& before_hold,
                                                       bool receive_shutdown);
// A connection with nothing queued and nothing owed on either side, as capture_tcp_connection()
// describes it.
struct StillConnection {
  proto::TcpSocket socket;
  TcpFacts facts;          // as long as they are the same, so is the stream but for its timestamp
  std::int64_t at_ms = 0;  // CLOCK_MONOTONIC, not after the reading of the timestamp
};
// Of one that was described a moment ago, while the process is stopped and packets come and go.
// Nothing when it does not stand still.
std::optional<StillConnection> look_at_tcp_connection(int agent_fd, const proto::TcpSocket& before);
// Before it is frozen: adds the lively options that are not as described. Throws Error when the
// ends are not. `ahead`: look_at_tcp_connection() has described it; then the buffers and the window
// are left to find_tcp_corrections(), for only the program can have changed them.
void confirm_tcp_connection(int agent_fd, const proto::TcpSocket& described, bool ahead,
                            proto::SocketCorrection& out);
// The name of its algorithm; what the description of a connection has beside its options.
std::string tcp_congestion_control(int agent_fd);
// Fills state and stream of a socket that has one (has_tcp_stream()), or what is left of it when it
// ended meanwhile. About 20 system calls. `before_hold`: as it was before packets were held; a
// stream in which nothing has moved since is marked quiet.
void capture_tcp_stream(int agent_fd, proto::TcpSocket& socket,
                        const TcpFacts* before_hold = nullptr);
// True if segments came in since the stream was captured.
bool tcp_stream_changed(int agent_fd, const proto::TcpSocket& socket);
// Captures the stream again until no segment came in meanwhile: one that was past the rules when
// they closed is in its socket microseconds later.
void settle_tcp_stream(int agent_fd, proto::TcpSocket& socket);

// For any TCP socket, listening ones included. `segments_in`: throws Error when more have come in
// than that.
void freeze_tcp_stream(int agent_fd, const SocketBlock& block,
                       std::optional<std::uint32_t> segments_in = std::nullopt);
void thaw_tcp_stream(int agent_fd, const proto::TcpSocket& socket, PacketReplay& replay);

}  // namespace godwit
