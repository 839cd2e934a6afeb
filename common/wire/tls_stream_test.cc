#include "common/wire/tls_stream.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <openssl/ssl.h>
#include <sys/socket.h>

#include <array>
#include <future>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "common/base/clock.h"
#include "common/wire/test_certificates.h"

namespace godwit {
namespace {

using ::testing::HasSubstr;
using testing::TestAuthority;

struct Sockets {
  UniqueFd client;
  UniqueFd server;
};

Sockets make_sockets() {
  std::array<int, 2> ends{};
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()) != 0) throw_system("pair");
  return {UniqueFd(ends[0]), UniqueFd(ends[1])};
}

Sockets make_tcp_sockets() {
  const UniqueFd listener(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  UniqueFd client(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t bytes = sizeof(address);
  auto* name = reinterpret_cast<sockaddr*>(&address);
  if (bind(listener.get(), name, bytes) != 0 || listen(listener.get(), 1) != 0 ||
      getsockname(listener.get(), name, &bytes) != 0 || connect(client.get(), name, bytes) != 0) {
    throw_system("loopback");
  }
  return {std::move(client), UniqueFd(accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC))};
}

std::int64_t in_seconds(int seconds) { return monotonic_ns() + seconds * 1'000'000'000LL; }

// What each side said: empty when it was content.
struct Verdicts {
  std::string client;
  std::string server;
};

template <typename Body>
std::string story_of(Body body) {
  try {
    body();
    return {};
  } catch (const Error& error) {
    return error.what();
  }
}

Verdicts handshake(const TlsMaterial& client, const TlsMaterial& server) {
  Sockets sockets = make_sockets();
  Verdicts verdicts;
  std::thread other([&] {
    verdicts.server =
        story_of([&] { TlsStream::accept(std::move(sockets.server), server, in_seconds(5)); });
  });
  verdicts.client =
      story_of([&] { TlsStream::connect(std::move(sockets.client), client, in_seconds(5)); });
  other.join();
  return verdicts;
}

class TlsStreamTest : public ::testing::Test {
 protected:
  TestAuthority authority_;
  TlsMaterial source_ = authority_.issue("source", "destination");
  TlsMaterial destination_ = authority_.issue("destination", "source");
};

TEST_F(TlsStreamTest, CarriesBytesBothWaysAndEndsInOrder) {
  Sockets sockets = make_sockets();
  std::vector<std::byte> sent(3'000'000);
  for (std::size_t i = 0; i < sent.size(); ++i) sent[i] = static_cast<std::byte>(i * 31 >> 3);
  auto server = std::async(std::launch::async, [&] {
    TlsStream stream = TlsStream::accept(std::move(sockets.server), destination_, in_seconds(10));
    std::vector<std::byte> received(sent.size());
    stream.read(received, in_seconds(10));
    stream.write(std::span(received).first(5), in_seconds(10));
    std::byte more{};
    EXPECT_EQ(stream.read_some(std::span(&more, 1), in_seconds(10)), 0u);
    EXPECT_EQ(stream.peer_name(), "host-source");
    return received;
  });
  TlsStream stream = TlsStream::connect(std::move(sockets.client), source_, in_seconds(10));
  EXPECT_EQ(stream.cipher(), "TLS_AES_128_GCM_SHA256");
  stream.write(sent, in_seconds(10));
  std::array<std::byte, 5> echo{};
  stream.read(echo, in_seconds(10));
  EXPECT_TRUE(std::equal(echo.begin(), echo.end(), sent.begin()));
  stream.close();
  EXPECT_EQ(server.get(), sent);
}

TEST_F(TlsStreamTest, WhatWasHeldBackLeavesWithTheNextWrite) {
  Sockets sockets = make_tcp_sockets();
  auto accepted = std::async(std::launch::async, [&] {
    return TlsStream::accept(std::move(sockets.server), destination_, in_seconds(5));
  });
  TlsStream client = TlsStream::connect(std::move(sockets.client), source_, in_seconds(5));
  TlsStream server = accepted.get();
  std::vector<std::byte> sent(40'000);
  for (std::size_t i = 0; i < sent.size(); ++i) sent[i] = static_cast<std::byte>(i * 31 >> 3);
  std::vector<std::byte> got(sent.size());
  // The kernel would let go of it by itself after 200 ms (tcp(7), TCP_CORK).
  constexpr int kTimes = 20;
  const std::int64_t start_ns = monotonic_ns();
  for (int i = 0; i < kTimes; ++i) {
    client.write_more(sent, in_seconds(5));
    client.write({}, in_seconds(5));
    server.read(got, in_seconds(5));
    EXPECT_EQ(got, sent);
  }
  EXPECT_LT(monotonic_ns() - start_ns, kTimes * 100'000'000LL);
}

TEST_F(TlsStreamTest, SaysWhatIsPending) {
  Sockets sockets = make_tcp_sockets();
  auto accepted = std::async(std::launch::async, [&] {
    return TlsStream::accept(std::move(sockets.server), destination_, in_seconds(5));
  });
  TlsStream client = TlsStream::connect(std::move(sockets.client), source_, in_seconds(5));
  TlsStream server = accepted.get();
  const std::array<std::byte, 100> message{};
  client.write_more(message, in_seconds(5));
  client.write(message, in_seconds(5));  // two records, in one piece
  std::array<std::byte, 100> got{};
  server.read(got, in_seconds(5));
  EXPECT_TRUE(server.has_pending());
  server.read(got, in_seconds(5));
  EXPECT_FALSE(server.has_pending());
}

TEST_F(TlsStreamTest, WrongRoleOfClient) {
  const Verdicts verdicts = handshake(authority_.issue("destination", "destination"), destination_);
  EXPECT_THAT(verdicts.server, HasSubstr("wrong role: OU is \"godwit-destination\""));
  EXPECT_THAT(verdicts.client,
              HasSubstr("the peer refused our certificate: it has the wrong role"));
}

TEST_F(TlsStreamTest, WrongRoleOfServer) {
  const Verdicts verdicts = handshake(source_, authority_.issue("source", "source"));
  EXPECT_THAT(verdicts.client, HasSubstr("wrong role: OU is \"godwit-source\""));
  EXPECT_THAT(verdicts.server,
              HasSubstr("the peer refused our certificate: it has the wrong role"));
}

TEST_F(TlsStreamTest, ExpiredCertificate) {
  const Verdicts verdicts =
      handshake(authority_.issue("source", "destination", -3600, -60), destination_);
  EXPECT_THAT(verdicts.server, HasSubstr("it has expired"));
  EXPECT_THAT(verdicts.client, HasSubstr("the peer refused our certificate: certificate expired"));
}

TEST_F(TlsStreamTest, ExpiredCertificateOfServer) {
  const Verdicts verdicts =
      handshake(source_, authority_.issue("destination", "source", -3600, -60));
  EXPECT_THAT(verdicts.client, HasSubstr("it has expired"));
  EXPECT_THAT(verdicts.server, HasSubstr("the peer refused our certificate: certificate expired"));
}

TEST_F(TlsStreamTest, NotYetValid) {
  const Verdicts verdicts =
      handshake(authority_.issue("source", "destination", 600, 3600), destination_);
  EXPECT_THAT(verdicts.server, HasSubstr("not valid yet"));
  EXPECT_THAT(verdicts.client, HasSubstr("it is not valid (yet)"));
}

TEST_F(TlsStreamTest, OtherAuthority) {
  const TestAuthority other;
  TlsMaterial stranger = other.issue("source", "destination");
  stranger.set_authority_pem(source_.authority_pem());
  const Verdicts verdicts = handshake(stranger, destination_);
  EXPECT_THAT(verdicts.server, HasSubstr("signed by another authority"));
  EXPECT_THAT(verdicts.client, HasSubstr("the peer refused our certificate"));
}

TEST_F(TlsStreamTest, ClientWithoutCertificate) {
  Sockets sockets = make_sockets();
  const int raw = sockets.client.get();
  std::thread client([raw] {
    SSL_CTX* context = SSL_CTX_new(TLS_client_method());
    SSL* ssl = SSL_new(context);
    SSL_set_fd(ssl, raw);
    SSL_connect(ssl);
    SSL_free(ssl);
    SSL_CTX_free(context);
  });
  const std::string story =
      story_of([&] { TlsStream::accept(std::move(sockets.server), destination_, in_seconds(5)); });
  client.join();
  EXPECT_THAT(story, HasSubstr("showed no certificate"));
}

TEST_F(TlsStreamTest, PeerThatDoesNotSpeakTls) {
  for (const std::string text :
       {"GET / HTTP/1.1\r\n\r\n", "\x01\x02 hello, this is no TLS at all"}) {
    Sockets sockets = make_sockets();
    ASSERT_GT(send(sockets.client.get(), text.data(), text.size(), 0), 0);
    EXPECT_THAT(story_of([&] {
                  TlsStream::accept(std::move(sockets.server), destination_, in_seconds(5));
                }),
                HasSubstr("does not speak TLS"));
  }
  Sockets sockets = make_sockets();
  const std::string banner = "220 mail.example.net ESMTP\r\n";
  ASSERT_GT(send(sockets.server.get(), banner.data(), banner.size(), 0), 0);
  EXPECT_THAT(
      story_of([&] { TlsStream::connect(std::move(sockets.client), source_, in_seconds(5)); }),
      HasSubstr("does not speak TLS"));
}

TEST_F(TlsStreamTest, OlderTlsIsRefused) {
  Sockets sockets = make_sockets();
  const int raw = sockets.client.get();
  std::thread client([raw] {
    SSL_CTX* context = SSL_CTX_new(TLS_client_method());
    SSL_CTX_set_max_proto_version(context, TLS1_2_VERSION);
    SSL* ssl = SSL_new(context);
    SSL_set_fd(ssl, raw);
    SSL_connect(ssl);
    SSL_free(ssl);
    SSL_CTX_free(context);
  });
  EXPECT_THAT(
      story_of([&] { TlsStream::accept(std::move(sockets.server), destination_, in_seconds(5)); }),
      HasSubstr("does not speak TLS 1.3"));
  client.join();
}

TEST_F(TlsStreamTest, SilentPeerTimesOut) {
  Sockets sockets = make_sockets();
  try {
    TlsStream::accept(std::move(sockets.server), destination_, monotonic_ns() + 50'000'000);
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ETIMEDOUT);
  }
}

TEST_F(TlsStreamTest, VanishedPeerIsNotAnOrderlyEnd) {
  Sockets sockets = make_sockets();
  std::optional<TlsStream> server;
  std::thread other(
      [&] { server = TlsStream::accept(std::move(sockets.server), destination_, in_seconds(5)); });
  {
    const TlsStream stream = TlsStream::connect(std::move(sockets.client), source_, in_seconds(5));
    other.join();
  }
  std::byte byte{};
  EXPECT_THAT(story_of([&] { server->read_some(std::span(&byte, 1), in_seconds(5)); }),
              HasSubstr("closed the connection without a word"));
  // Writing into it must not raise SIGPIPE.
  const std::vector<std::byte> data(1 << 20);
  EXPECT_NE(story_of([&] { server->write(data, in_seconds(5)); }), "");
}

TEST_F(TlsStreamTest, MaterialThatCannotBeUsed) {
  TlsMaterial mixed = source_;
  mixed.set_private_key_pem(destination_.private_key_pem());
  Sockets sockets = make_sockets();
  EXPECT_THAT(
      story_of([&] { TlsStream::connect(std::move(sockets.client), mixed, in_seconds(1)); }),
      HasSubstr("does not belong to our certificate"));
  TlsMaterial empty;
  sockets = make_sockets();
  EXPECT_THAT(
      story_of([&] { TlsStream::connect(std::move(sockets.client), empty, in_seconds(1)); }),
      HasSubstr("no certificate was given"));
}

}  // namespace
}  // namespace godwit
