// UDP sockets made again. Descriptors are the agent's; the skeleton gets duplicates.
//
//   prepare_udp_socket()  ahead: socket, options, bound, connected. The address need not be here
//                         yet. Packets for it must be held from the moment it is (PacketHold).
//   finish_udp_socket()   blackout: what only the preparing needed is taken back, sizes are set.
//   release_udp_socket()  handover decided, before held packets are replayed: the queue is filled
//                         by injecting its datagrams, with their own senders, and the options that
//                         stood in the way are set.
//
// Throw Error naming the socket's addresses.
#pragma once

#include "common/base/unique_fd.h"
#include "common/network/packet_replay.h"
#include "proto/udp_sockets.pb.h"

namespace godwit {

UniqueFd prepare_udp_socket(const proto::UdpSocket& socket);
void finish_udp_socket(int fd, const proto::UdpSocket& socket);
void release_udp_socket(int fd, const proto::UdpSocket& socket, PacketReplay& replay);

}  // namespace godwit
