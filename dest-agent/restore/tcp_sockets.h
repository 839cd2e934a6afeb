// TCP sockets made again, in three steps. Descriptors are the agent's; the skeleton gets
// duplicates.
//
//   prepare_tcp_socket()  ahead, while the source runs: socket, options, bound. Nothing can arrive.
//   finish_tcp_socket()   blackout: listening; connections get sequence numbers, queues, window.
//                         Nothing leaves; closing from here on (rollback) is silent too. Packets
//                         for these endpoints must be held (PacketHold), for a socket that stands
//                         answers them.
//   release_tcp_socket()  handover decided: repair off, unsent bytes and FINs go out. The local
//                         address must be an address of this host now. PacketHold::let_out() comes
//                         before it, the held packets after it.
//
// All throw Error naming the socket's addresses.
#pragma once

#include "common/base/unique_fd.h"
#include "common/network/packet_replay.h"
#include "proto/control.pb.h"
#include "proto/tcp_sockets.pb.h"

namespace godwit {

// False: what was prepared from one description does not fit a later one of the same socket, which
// has to be prepared anew (an option was set meanwhile, a connection ended).
bool same_prepared(const proto::TcpSocket& prepared, const proto::TcpSocket& wanted);

UniqueFd prepare_tcp_socket(const proto::TcpSocket& socket);
void finish_tcp_socket(int fd, const proto::TcpSocket& socket);
// A connection that was finished becomes as it was prepared, without a word to the peer.
void reset_tcp_socket(int fd, const proto::TcpSocket& socket);
// One that was finished a while ago, and whose timestamp only has gone on since.
void set_stream_timestamp(int fd, const proto::TcpStream& stream);
void release_tcp_socket(int fd, const proto::TcpSocket& socket, PacketReplay& replay);
// Once the process runs: the peer hears at once what has come here, as the acknowledgement that was
// due in the blackout may have been dropped.
void prompt_tcp_socket(const proto::TcpSocket& socket, PacketReplay& replay);

// The process runs with it already: what it got at the source in the last instant.
void correct_tcp_socket(int fd, const proto::SocketCorrection& correction);

}  // namespace godwit
