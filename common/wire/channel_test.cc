#include "common/wire/channel.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>

#include <exception>
#include <functional>
#include <optional>
#include <random>
#include <thread>

#include "common/base/clock.h"
#include "common/wire/test_certificates.h"

namespace godwit {
namespace {

using ::testing::HasSubstr;

std::int64_t soon() { return monotonic_ns() + 10'000'000'000; }

// Both ends of a TLS connection between a source and a destination.
struct Streams {
  TlsStream source;
  TlsStream destination;
};

Streams connect_streams() {
  static const testing::TestAuthority authority;
  int fds[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) != 0) throw_system("socketpair");
  UniqueFd near(fds[0]);
  UniqueFd far(fds[1]);
  std::optional<TlsStream> accepted;
  std::exception_ptr trouble;
  std::thread server([&] {
    try {
      accepted =
          TlsStream::accept(std::move(far), authority.issue("destination", "source"), soon());
    } catch (...) {
      trouble = std::current_exception();
    }
  });
  std::optional<TlsStream> source;
  try {
    source = TlsStream::connect(std::move(near), authority.issue("source", "destination"), soon());
  } catch (...) {
    trouble = std::current_exception();
  }
  server.join();
  if (trouble) std::rethrow_exception(trouble);
  return {std::move(*source), std::move(*accepted)};
}

struct Channels {
  Channel source;
  Channel destination;
};

Channels connect_channels() {
  Streams streams = connect_streams();
  return {Channel(std::move(streams.source)), Channel(std::move(streams.destination))};
}

// Bytes as they stand on the wire.
void write_raw(TlsStream& stream, std::initializer_list<int> bytes) {
  std::vector<std::byte> raw;
  for (const int byte : bytes) raw.push_back(static_cast<std::byte>(byte));
  stream.write(raw, soon());
}

int code_of(const std::function<void()>& body) {
  try {
    body();
  } catch (const Error& error) {
    return error.code();
  }
  return -1;
}

TEST(Channel, CarriesMessagesBothWaysInOrder) {
  Channels channels = connect_channels();
  proto::Hello hello;
  hello.set_version(1);
  hello.set_migration_id("0123456789abcdef");
  channels.source.send_body(hello);
  channels.source.send_body(proto::Commit{});
  EXPECT_EQ(channels.destination.receive_body<proto::Hello>(soon()).migration_id(),
            "0123456789abcdef");
  channels.destination.receive_body<proto::Commit>(soon());
  proto::Committed committed;
  committed.set_host_pid(77);
  channels.destination.send_body(committed);
  EXPECT_EQ(channels.source.receive_body<proto::Committed>(soon()).host_pid(), 77);
  EXPECT_EQ(channels.source.peer_name(), "host-destination");
}

TEST(Channel, CarriesEveryKindOfBody) {
  Channels channels = connect_channels();
  const auto* body = proto::Envelope::descriptor()->oneof_decl(0);
  for (int i = 0; i < body->field_count(); ++i) {
    proto::Envelope envelope;
    envelope.GetReflection()->MutableMessage(&envelope, body->field(i));
    channels.source.send(envelope, soon());
    EXPECT_EQ(body_name(channels.destination.receive(soon())),
              body->field(i)->message_type()->name());
  }
}

TEST(Channel, CarriesLargeMessagesAndRefusesTooLargeOnes) {
  Channels channels = connect_channels();
  proto::HeldPackets packets;
  packets.add_packets(std::string(5 << 20, 'p'));
  std::thread sender([&] { channels.source.send_body(packets, soon()); });
  const auto got = channels.destination.receive_body<proto::HeldPackets>(soon());
  sender.join();
  EXPECT_EQ(got.packets(0), packets.packets(0));
  packets.add_packets(std::string(Channel::kMaximumMessageBytes, 'p'));
  EXPECT_THROW(channels.source.send_body(packets), Error);
}

TEST(Channel, GoesOnAfterADeadlineInTheMiddleOfAMessage) {
  Streams streams = connect_streams();
  Channel destination(std::move(streams.destination));
  EXPECT_EQ(code_of([&] { destination.receive(monotonic_ns() + 5'000'000); }), ETIMEDOUT);
  write_raw(streams.source, {4, 0, 0});
  EXPECT_EQ(code_of([&] { destination.receive(monotonic_ns() + 5'000'000); }), ETIMEDOUT);
  // clock_probe { number: 5 }
  write_raw(streams.source, {0, 0x2a, 2});
  EXPECT_EQ(code_of([&] { destination.receive(monotonic_ns() + 5'000'000); }), ETIMEDOUT);
  write_raw(streams.source, {8, 5});
  EXPECT_EQ(destination.receive_body<proto::ClockProbe>(soon()).number(), 5U);
}

TEST(Channel, TellsAbortAsThePeersStory) {
  Channels channels = connect_channels();
  proto::Abort abort;
  abort.set_story("out of memory");
  abort.set_hint("add some");
  channels.destination.send_body(abort);
  channels.destination.send_body(abort);
  try {
    channels.source.receive_body<proto::Prepared>(soon());
    FAIL() << "Abort was taken for Prepared";
  } catch (const PeerAborted& error) {
    EXPECT_THAT(error.what(), HasSubstr("out of memory"));
    EXPECT_THAT(error.what(), HasSubstr("host-destination"));
    EXPECT_EQ(error.hint(), "add some");
  }
  EXPECT_EQ(channels.source.receive_body<proto::Abort>(soon()).story(), "out of memory");
}

TEST(Channel, APeersWordsCannotWriteToATerminal) {
  Channels channels = connect_channels();
  proto::Abort abort;
  abort.set_story("no\x1b[2J\nroom");
  channels.source.send_body(abort);
  try {
    channels.destination.receive_body<proto::Commit>(soon());
    FAIL() << "no error";
  } catch (const PeerAborted& error) {
    EXPECT_STREQ(error.what(), "host-source: no?[2J?room");
  }
}

TEST(Channel, NamesAMessageThatHasNoPlaceHere) {
  Channels channels = connect_channels();
  channels.source.send_body(proto::Finish{});
  try {
    channels.destination.receive_body<proto::Hello>(soon());
    FAIL() << "Finish was taken for Hello";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), EPROTO);
    EXPECT_THAT(error.what(), HasSubstr("Finish where Hello was expected"));
  }
}

TEST(Channel, RefusesWhatIsNoMessage) {
  const auto receive_raw = [](std::initializer_list<int> bytes) {
    Streams streams = connect_streams();
    Channel destination(std::move(streams.destination));
    write_raw(streams.source, bytes);
    streams.source.close();
    return code_of([&] { destination.receive(soon()); });
  };
  EXPECT_EQ(receive_raw({0xff, 0xff, 0xff, 0xff}), EPROTO);        // 4 GiB
  EXPECT_EQ(receive_raw({1, 0, 0, 0x20}), EPROTO);                 // a byte above the maximum
  EXPECT_EQ(receive_raw({0, 0, 0, 0}), EPROTO);                    // no body
  EXPECT_EQ(receive_raw({3, 0, 0, 0, 0xff, 0xff, 0xff}), EPROTO);  // no protobuf
  EXPECT_EQ(receive_raw({4, 0, 0, 0, 0xc2, 0x3e, 1, 0}), EPROTO);  // a field of the future
  EXPECT_EQ(receive_raw({0, 0, 0}), ECONNRESET);                   // cut in the size
  EXPECT_EQ(receive_raw({9, 0, 0, 0, 1}), ECONNRESET);             // cut in the message
  EXPECT_EQ(receive_raw({}), ECONNRESET);
}

// A peer with a certificate may be wrong in any way: each message is taken, or refused as none.
TEST(Channel, TakesOrRefusesDamagedMessages) {
  proto::Envelope envelope;
  proto::Hello& hello = *envelope.mutable_hello();
  hello.set_migration_id("0123456789abcdef");
  hello.mutable_source()->set_host_name("alpha");
  hello.mutable_source()->set_vdso_hash(~0ULL);
  const std::string good = envelope.SerializeAsString();
  Streams streams = connect_streams();
  Channel destination(std::move(streams.destination));
  std::mt19937 random(11);
  int refused = 0;
  for (int turn = 0; turn < 2000; ++turn) {
    std::string message = good.substr(0, turn % 2 == 0 ? good.size() : random() % good.size());
    for (unsigned flips = random() % 4; flips > 0 && !message.empty(); --flips) {
      message[random() % message.size()] ^= static_cast<char>(1 << (random() % 8));
    }
    std::vector<std::byte> raw{static_cast<std::byte>(message.size()), {}, {}, {}};
    for (const char byte : message) raw.push_back(static_cast<std::byte>(byte));
    streams.source.write(raw, soon());
    const int code = code_of([&] { destination.receive(soon()); });
    ASSERT_TRUE(code == -1 || code == EPROTO) << code << " in turn " << turn;
    refused += code == EPROTO;
  }
  EXPECT_GT(refused, 500);
}

TEST(Channel, TellsAnOrderlyEndBetweenMessages) {
  Channels channels = connect_channels();
  channels.source.send_body(proto::Commit{});
  channels.source.close();
  channels.destination.receive_body<proto::Commit>(soon());
  EXPECT_FALSE(channels.destination.try_receive(soon()));
}

TEST(Channel, SaysThatBytesWaitInsideTls) {
  Channels channels = connect_channels();
  EXPECT_FALSE(channels.destination.pending());
  // Both messages arrive with one read of the socket.
  channels.source.send_body(proto::Commit{});
  channels.source.send_body(proto::Finish{});
  channels.destination.receive_body<proto::Commit>(soon());
  EXPECT_TRUE(channels.destination.pending());
  channels.destination.receive_body<proto::Finish>(soon());
  EXPECT_FALSE(channels.destination.pending());
}

}  // namespace
}  // namespace godwit
