#include "common/wire/prompt_messages.h"

#include <gtest/gtest.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <string>

#include "common/base/unique_fd.h"

namespace godwit {
namespace {

TEST(PromptMessages, RoomAndNoPacing) {
  const UniqueFd socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  do_not_pace(socket.get());
  give_room_for_messages(socket.get());
  int room = 0;
  socklen_t bytes = sizeof room;
  ASSERT_EQ(getsockopt(socket.get(), SOL_SOCKET, SO_SNDBUF, &room, &bytes), 0);
  EXPECT_GE(room, 1 << 20);
  char name[16] = {};
  bytes = sizeof name;
  ASSERT_EQ(getsockopt(socket.get(), IPPROTO_TCP, TCP_CONGESTION, name, &bytes), 0);
  EXPECT_TRUE(std::string(name) == "cubic" || std::string(name) == "reno") << name;
}

}  // namespace
}  // namespace godwit
