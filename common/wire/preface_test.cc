#include "common/wire/preface.h"

#include <gtest/gtest.h>
#include <sys/socket.h>

#include <cstring>
#include <vector>

#include "common/base/clock.h"
#include "common/base/error.h"
#include "common/base/unique_fd.h"

namespace godwit {
namespace {

constexpr std::int64_t kSecondNs = 1'000'000'000;
const Preface kExample{ConnectionKind::kPages, "0123456789abcdef"};

struct Pair {
  UniqueFd a, b;
};

Pair make_pair() {
  int fds[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) != 0) throw_system("socketpair");
  return {UniqueFd(fds[0]), UniqueFd(fds[1])};
}

TEST(Preface, ReadsBackWhatItWrote) {
  EXPECT_EQ(parse_preface(encode_preface(kExample)), kExample);
  const Preface control{ConnectionKind::kControl, "ffffffffffffffff"};
  EXPECT_EQ(parse_preface(encode_preface(control)), control);
  const auto bytes = encode_preface(kExample);
  EXPECT_EQ(std::memcmp(bytes.data(), "GODWIT1\nP0123456789abcdef\0\0\0\0\0\0\0", 32), 0);
}

TEST(Preface, EveryByteThatIsNotAsItShouldBeIsRefused) {
  const auto good = encode_preface(kExample);
  for (std::size_t i = 0; i < good.size(); ++i) {
    auto bad = good;
    bad[i] = std::byte{'!'};
    EXPECT_FALSE(parse_preface(bad)) << "byte " << i;
  }
  EXPECT_FALSE(parse_preface({}));
  EXPECT_FALSE(parse_preface(std::span(good).first(31)));
  std::vector<std::byte> longer(good.begin(), good.end());
  longer.push_back(std::byte{0});
  EXPECT_FALSE(parse_preface(longer));
}

TEST(Preface, RefusesToWriteWhatIsNoId) {
  for (const char* id : {"", "0123456789abcde", "0123456789ABCDEF", "0123456789abcdefg"}) {
    EXPECT_THROW(encode_preface({ConnectionKind::kControl, id}), Error) << id;
  }
}

TEST(MigrationId, IsOneAndDiffersEveryTime) {
  const std::string id = make_migration_id();
  EXPECT_TRUE(is_migration_id(id));
  EXPECT_NE(id, make_migration_id());
}

TEST(ReadPreface, TakesItsBytesAndLeavesTheRest) {
  const Pair pair = make_pair();
  send_preface(pair.a.get(), kExample);
  ASSERT_EQ(::send(pair.a.get(), "rest", 4, 0), 4);
  EXPECT_EQ(read_preface(pair.b.get(), monotonic_ns() + kSecondNs), kExample);
  char rest[8];
  EXPECT_EQ(::recv(pair.b.get(), rest, sizeof(rest), 0), 4);
}

TEST(ReadPreface, TellsAStrangerFromASilentAndAGonePeer) {
  const Pair stranger = make_pair();
  ASSERT_EQ(::send(stranger.a.get(), "GET / HTTP/1.1\r\nHost: example.org\r\n\r\n", 37, 0), 37);
  EXPECT_FALSE(read_preface(stranger.b.get(), monotonic_ns() + kSecondNs));

  const Pair silent = make_pair();
  ASSERT_EQ(::send(silent.a.get(), "GODWIT1", 7, 0), 7);
  try {
    read_preface(silent.b.get(), monotonic_ns() + 20'000'000);
    FAIL() << "half a preface was taken";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ETIMEDOUT);
  }

  Pair gone = make_pair();
  gone.a.reset();
  try {
    read_preface(gone.b.get(), monotonic_ns() + kSecondNs);
    FAIL() << "nothing was taken for a preface";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ECONNRESET);
  }
}

}  // namespace
}  // namespace godwit
