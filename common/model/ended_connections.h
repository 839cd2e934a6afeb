// A description of a process without the connections that it has: what its program sees when their
// peers are gone.
#pragma once

#include "proto/fd_table.pb.h"
#include "proto/tcp_sockets.pb.h"

namespace godwit {

// Of one connection: what had come can be read, then there is an error.
void end_connection(proto::TcpSocket& socket);

// Of all that are connected, whether their streams have been described or not, where the addresses
// do not come along. Sockets that listen, or were never connected, stay as they are.
void end_connections(proto::FdTable& fd_table);

}  // namespace godwit
