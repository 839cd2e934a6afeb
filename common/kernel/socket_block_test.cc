#include "common/kernel/socket_block.h"

#include <gtest/gtest.h>
#include <linux/filter.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/kernel/socket_options.h"

namespace godwit {
namespace {

// Two UDP sockets of the loopback interface, `from` connected to `to`.
struct Pair {
  Pair() {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t bytes = sizeof address;
    auto* name = reinterpret_cast<sockaddr*>(&address);
    EXPECT_EQ(bind(to.get(), name, bytes), 0);
    EXPECT_EQ(getsockname(to.get(), name, &bytes), 0);
    EXPECT_EQ(connect(from.get(), name, bytes), 0);
  }
  // The loopback interface delivers before send() returns.
  bool passes() const {
    char byte = 'x';
    EXPECT_EQ(send(from.get(), &byte, 1, 0), 1);
    return recv(to.get(), &byte, 1, MSG_DONTWAIT) == 1;
  }
  UniqueFd to{socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0)};
  UniqueFd from{socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0)};
};

TEST(SocketBlock, NothingComesInUntilItIsUndone) {
  const Pair pair;
  const SocketBlock block;
  ASSERT_TRUE(pair.passes());
  EXPECT_FALSE(is_socket_input_blocked(pair.to.get()));
  block.block(pair.to.get());
  EXPECT_TRUE(is_socket_input_blocked(pair.to.get()));
  EXPECT_FALSE(pair.passes());
  unblock_socket_input(pair.to.get(), std::nullopt);
  EXPECT_FALSE(is_socket_input_blocked(pair.to.get()));
  EXPECT_TRUE(pair.passes());
}

TEST(SocketBlock, TheProgramsOwnFilterComesBack) {
  const Pair pair;
  sock_filter take_all{};
  take_all.code = BPF_RET | BPF_K;
  take_all.k = 0xffff;
  const std::string own(reinterpret_cast<const char*>(&take_all), sizeof take_all);
  set_socket_option(pair.to.get(), {SOL_SOCKET, SO_ATTACH_FILTER, own});
  EXPECT_FALSE(is_socket_input_blocked(pair.to.get()));
  SocketBlock().block(pair.to.get());
  EXPECT_FALSE(pair.passes());
  unblock_socket_input(pair.to.get(), own);
  EXPECT_EQ(classic_socket_filter(pair.to.get()), own);
  EXPECT_TRUE(pair.passes());
}

}  // namespace
}  // namespace godwit
