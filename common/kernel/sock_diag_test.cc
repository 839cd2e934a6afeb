#include "common/kernel/sock_diag.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "common/base/unique_fd.h"
#include "common/kernel/socket_options.h"

namespace godwit {
namespace {

std::array<UniqueFd, 2> unix_pair(int type) {
  int fds[2] = {-1, -1};
  if (socketpair(AF_UNIX, type | SOCK_CLOEXEC, 0, fds) != 0) throw_system("socketpair");
  return {UniqueFd(fds[0]), UniqueFd(fds[1])};
}

TEST(SockDiag, UnixPairsKnowEachOther) {
  auto [one, other] = unix_pair(SOCK_STREAM);
  ASSERT_EQ(send(one.get(), "12345", 5, 0), 5);
  shutdown(other.get(), SHUT_WR);
  const auto found = unix_diag(socket_inode(other.get()));
  ASSERT_TRUE(found);
  EXPECT_EQ(found->type, SOCK_STREAM);
  EXPECT_EQ(found->inode, socket_inode(other.get()));
  EXPECT_EQ(found->peer_inode, socket_inode(one.get()));
  EXPECT_EQ(found->receive_queue, 5U);
  EXPECT_EQ(found->shutdown, 2U);
  EXPECT_EQ(unix_diag(socket_inode(one.get()))->shutdown, 1U);
  const std::uint64_t gone = socket_inode(one.get());
  one.reset();
  EXPECT_FALSE(unix_diag(gone));
  EXPECT_EQ(unix_diag(socket_inode(other.get()))->peer_inode, 0U);
}

TEST(SockDiag, ListenersShowNameAndWaitingConnections) {
  const UniqueFd listener(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  ASSERT_EQ(bind(listener.get(), reinterpret_cast<sockaddr*>(&address), sizeof(sa_family_t)), 0);
  ASSERT_EQ(listen(listener.get(), 5), 0);
  socklen_t bytes = sizeof address;
  ASSERT_EQ(getsockname(listener.get(), reinterpret_cast<sockaddr*>(&address), &bytes), 0);
  const UniqueFd client(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  ASSERT_EQ(connect(client.get(), reinterpret_cast<sockaddr*>(&address), bytes), 0);
  const auto found = unix_diag(socket_inode(listener.get()));
  ASSERT_TRUE(found);
  EXPECT_EQ(found->receive_queue, 1U);
  EXPECT_EQ(found->name, std::string(address.sun_path, bytes - sizeof(sa_family_t)));
}

TEST(SockDiag, ListsListenersByInode) {
  const UniqueFd listener(socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0));
  ASSERT_EQ(listen(listener.get(), 7), 0);
  const std::vector<InetDiag> all = inet_diag(IPPROTO_TCP, 1U << 10);
  const auto own = std::find_if(all.begin(), all.end(), [&](const InetDiag& socket) {
    return socket.inode == socket_inode(listener.get());
  });
  ASSERT_NE(own, all.end());
  EXPECT_EQ(own->family, AF_INET6);
  EXPECT_EQ(own->send_queue, 7U);
  EXPECT_EQ(own->local_address.size(), 16U);
  sockaddr_in6 address{};
  socklen_t bytes = sizeof address;
  getsockname(listener.get(), reinterpret_cast<sockaddr*>(&address), &bytes);
  EXPECT_EQ(own->local_port, ntohs(address.sin6_port));
}

}  // namespace
}  // namespace godwit
