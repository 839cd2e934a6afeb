// Control messages over TLS: each is a proto::Envelope behind its size (32 bits, little-endian, at
// most kMaximumMessageBytes; see proto/control.proto for the order of messages). Or over another
// Transport, which needs no bytes.
//
// A deadline that passes in the middle of a message loses nothing: the next receive goes on.
// Deadlines are moments of CLOCK_MONOTONIC in nanoseconds. Thread: one at a time. Errors: those of
// TlsStream; EPROTO for what is no message; PeerAborted.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "common/base/error.h"
#include "common/wire/tls_stream.h"
#include "common/wire/transport.h"
#include "proto/control.pb.h"

namespace godwit {

// The peer said Abort: its story and hint.
class PeerAborted : public Error {
 public:
  using Error::Error;
};

// The name of what the envelope holds: "Describe", "nothing".
std::string body_name(const proto::Envelope& envelope);

class Channel {
 public:
  // Final carries what is queued in every connection: a busy one has some 10 MB.
  static constexpr std::size_t kMaximumMessageBytes = 512 << 20;

  explicit Channel(TlsStream stream);
  explicit Channel(std::unique_ptr<Transport> transport) : transport_(std::move(transport)) {}

  // Throws Error when the message is larger than the maximum or the stream is lost.
  void send(const proto::Envelope& envelope, std::int64_t deadline_ns = kNoDeadline);
  // An envelope with this body: channel.send_body(proto::Commit{}).
  template <typename Body>
  void send_body(Body body, std::int64_t deadline_ns = kNoDeadline) {
    send(envelope_of(std::move(body)), deadline_ns);
  }
  template <typename Body>
  static proto::Envelope envelope_of(Body body) {
    proto::Envelope envelope;
    static_cast<Body&>(body_of(envelope, *Body::descriptor())).Swap(&body);
    return envelope;
  }

  // The next message, whatever it is (Abort too). The end of the stream is an Error (ECONNRESET).
  proto::Envelope receive(std::int64_t deadline_ns = kNoDeadline);
  // Nothing when the peer closed the stream in an orderly way between two messages.
  std::optional<proto::Envelope> try_receive(std::int64_t deadline_ns = kNoDeadline);
  // The next message, which must have this body: anything else is an Error, Abort is PeerAborted.
  template <typename Body>
  Body receive_body(std::int64_t deadline_ns = kNoDeadline) {
    proto::Envelope envelope = receive(deadline_ns);
    Body body;
    static_cast<Body&>(expected_body(envelope, *Body::descriptor())).Swap(&body);
    return body;
  }
  // For a caller that takes several kinds: throws PeerAborted if it is an Abort.
  void check_not_aborted(const proto::Envelope& envelope) const;
  // What to throw for a message that has no place here.
  [[noreturn]] void refuse_unexpected(const proto::Envelope& envelope,
                                      const std::string& expected) const;

  // For poll(2): readable, or pending() says that bytes wait inside TLS already.
  int fd() const { return transport_->fd(); }
  bool pending() const { return transport_->pending(); }
  const std::string& peer_name() const { return transport_->peer_name(); }
  void close() noexcept { transport_->close(); }

 private:
  static google::protobuf::Message& body_of(proto::Envelope& envelope,
                                            const google::protobuf::Descriptor& type);
  google::protobuf::Message& expected_body(proto::Envelope& envelope,
                                           const google::protobuf::Descriptor& type) const;

  std::unique_ptr<Transport> transport_;
};

}  // namespace godwit
