// UDP sockets, read from the agent's own duplicate. Nothing here stops the process; functions throw
// Error, or Refused for what can't be moved.
#pragma once

#include "common/kernel/socket_block.h"
#include "common/model/findings.h"
#include "proto/udp_sockets.pb.h"

namespace godwit {

bool is_udp_socket(int fd);

// Everything about this socket that would stop the migration: multicast groups, UDP_GRO,
// encapsulation, corked data, opaque filters. `fd` is its number in the process.
void preflight_udp_socket(int agent_fd, int fd, Findings& findings);

// Everything except the queue.
proto::UdpSocket capture_udp_socket(int agent_fd);
// Fills the queue with what was not read yet, and leaves it there. The process must be stopped and
// packets held; may be repeated on the same description, which then
// gains what came in since. About ten system calls, and one for each
// datagram.
void capture_udp_queue(int agent_fd, proto::UdpSocket& socket);

// From here the socket takes nothing in; and back.
void freeze_udp_socket(int agent_fd, const SocketBlock& block);
void thaw_udp_socket(int agent_fd, const proto::UdpSocket& socket);

}  // namespace godwit
