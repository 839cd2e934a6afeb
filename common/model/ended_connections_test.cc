#include "common/model/ended_connections.h"

#include <gtest/gtest.h>
#include <netinet/tcp.h>

namespace godwit {
namespace {

TEST(EndConnection, LeavesWhatHadComeAndAnError) {
  proto::TcpSocket socket;
  socket.set_state(TCP_ESTABLISHED);
  socket.mutable_stream()->mutable_receive()->set_bytes("not read yet");
  socket.mutable_stream()->mutable_send()->set_bytes("never acknowledged");
  end_connection(socket);
  EXPECT_EQ(socket.state(), TCP_CLOSE);
  EXPECT_FALSE(socket.has_stream());
  EXPECT_EQ(socket.dead().unread(), "not read yet");
  EXPECT_TRUE(socket.dead().error());
}

TEST(EndConnections, LeavesWhatIsNotConnected) {
  proto::FdTable fd_table;
  for (const int state : {TCP_LISTEN, TCP_CLOSE, TCP_ESTABLISHED, TCP_CLOSE_WAIT}) {
    fd_table.add_files()->mutable_tcp_socket()->set_state(state);
  }
  fd_table.add_files()->mutable_regular_file()->set_path("/file");
  end_connections(fd_table);
  EXPECT_EQ(fd_table.files(0).tcp_socket().state(), TCP_LISTEN);
  EXPECT_FALSE(fd_table.files(0).tcp_socket().has_dead());
  EXPECT_FALSE(fd_table.files(1).tcp_socket().has_dead());
  EXPECT_TRUE(fd_table.files(2).tcp_socket().has_dead());
  EXPECT_TRUE(fd_table.files(3).tcp_socket().has_dead());
  EXPECT_EQ(fd_table.files(4).regular_file().path(), "/file");
}

}  // namespace
}  // namespace godwit
