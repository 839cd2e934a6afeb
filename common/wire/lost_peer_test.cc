#include "common/wire/lost_peer.h"

#include <gtest/gtest.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include "common/base/unique_fd.h"

namespace godwit {
namespace {

int option(int socket, int level, int name) {
  int value = -1;
  socklen_t size = sizeof(value);
  EXPECT_EQ(getsockopt(socket, level, name, &value, &size), 0);
  return value;
}

TEST(LostPeer, IsNoticedWithinHalfAMinuteQuietOrNot) {
  const UniqueFd socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  ASSERT_TRUE(socket.valid());
  ASSERT_EQ(option(socket.get(), SOL_SOCKET, SO_KEEPALIVE), 0);
  notice_lost_peer(socket.get());
  EXPECT_NE(option(socket.get(), SOL_SOCKET, SO_KEEPALIVE), 0);
  EXPECT_EQ(option(socket.get(), IPPROTO_TCP, TCP_USER_TIMEOUT), 30'000);
  EXPECT_LE(option(socket.get(), IPPROTO_TCP, TCP_KEEPIDLE) +
                option(socket.get(), IPPROTO_TCP, TCP_KEEPINTVL) *
                    option(socket.get(), IPPROTO_TCP, TCP_KEEPCNT),
            30);
}

TEST(LostPeer, LeavesWhatIsNoTcpSocketAlone) {
  const UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  ASSERT_TRUE(socket.valid());
  EXPECT_NO_THROW(notice_lost_peer(socket.get()));
}

}  // namespace
}  // namespace godwit
