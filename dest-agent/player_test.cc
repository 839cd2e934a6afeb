#include "dest-agent/player.h"

#include <netinet/tcp.h>

#include "common/image/image_fixture.h"

namespace godwit {
namespace {

using ::testing::HasSubstr;

using PlayerTest = ImageCase;

TEST_F(PlayerTest, PlaysNoStateThatNoProcessCanBeMadeFrom) {
  make("one", kFirstId, {{0, page_text(0)}});
  try {
    Player(Image::open(path("one")), kSecondId, {});
    FAIL();
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("one"));
  }
}

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

}  // namespace
}  // namespace godwit
