#include "common/model/ended_connections.h"

#include <netinet/tcp.h>

namespace godwit {

void end_connection(proto::TcpSocket& socket) {
  proto::DeadConnection& dead = *socket.mutable_dead();
  dead.set_unread(socket.stream().receive().bytes());
  dead.set_error(true);
  dead.set_alone(true);
  socket.clear_stream();
  socket.set_state(TCP_CLOSE);
}

void end_connections(proto::FdTable& fd_table) {
  for (proto::OpenFile& file : *fd_table.mutable_files()) {
    if (!file.has_tcp_socket()) continue;
    const int state = file.tcp_socket().state();
    proto::TcpSocket& socket = *file.mutable_tcp_socket();
    if (state != TCP_LISTEN && state != TCP_CLOSE) end_connection(socket);
    if (socket.has_dead()) socket.mutable_dead()->set_alone(true);
  }
}

}  // namespace godwit
