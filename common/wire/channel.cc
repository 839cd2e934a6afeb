#include "common/wire/channel.h"

#include <algorithm>
#include <array>
#include <span>
#include <vector>

#include "common/base/printable.h"

namespace godwit {
namespace {

constexpr std::size_t kPrefixBytes = 4;
// A peer that announces much and sends little must not cost much memory.
constexpr std::size_t kGrowthBytes = 1 << 20;

void put_size(std::span<std::byte, kPrefixBytes> to, std::size_t size) {
  for (std::size_t i = 0; i < kPrefixBytes; ++i) to[i] = static_cast<std::byte>(size >> (8 * i));
}

std::size_t get_size(const std::vector<std::byte>& from) {
  std::size_t size = 0;
  for (std::size_t i = 0; i < kPrefixBytes; ++i) {
    size |= std::to_integer<std::size_t>(from[i]) << (8 * i);
  }
  return size;
}

// The field that is set, or nullptr.
const google::protobuf::FieldDescriptor* set_field(const proto::Envelope& envelope) {
  const google::protobuf::OneofDescriptor* body = envelope.GetDescriptor()->oneof_decl(0);
  return envelope.GetReflection()->GetOneofFieldDescriptor(envelope, body);
}

class TlsTransport final : public Transport {
 public:
  explicit TlsTransport(TlsStream stream) : stream_(std::move(stream)) {}

  void send(const proto::Envelope& envelope, std::int64_t deadline_ns) override;
  std::optional<proto::Envelope> try_receive(std::int64_t deadline_ns) override;
  int fd() const override { return stream_.fd(); }
  bool pending() const override { return stream_.has_pending(); }
  const std::string& peer_name() const override { return stream_.peer_name(); }
  void close() noexcept override { stream_.close(); }

 private:
  // False at an orderly end before the first byte.
  bool fill(std::size_t bytes, std::int64_t deadline_ns);

  TlsStream stream_;
  std::vector<std::byte> received_;  // of a message that is not complete
};

void TlsTransport::send(const proto::Envelope& envelope, std::int64_t deadline_ns) {
  const std::size_t size = envelope.ByteSizeLong();
  if (size > Channel::kMaximumMessageBytes) {
    fail("a message {} of {} bytes is larger than a channel carries ({})", body_name(envelope),
         size, Channel::kMaximumMessageBytes);
  }
  std::vector<std::byte> bytes(kPrefixBytes + size);
  put_size(std::span(bytes).first<kPrefixBytes>(), size);
  envelope.SerializeWithCachedSizesToArray(
      reinterpret_cast<std::uint8_t*>(bytes.data() + kPrefixBytes));
  stream_.write(bytes, deadline_ns);
}

bool TlsTransport::fill(std::size_t bytes, std::int64_t deadline_ns) {
  while (received_.size() < bytes) {
    const std::size_t have = received_.size();
    received_.resize(std::min(bytes, have + kGrowthBytes));
    std::size_t got = 0;
    try {
      got = stream_.read_some(std::span(received_).subspan(have), deadline_ns);
    } catch (...) {
      received_.resize(have);
      throw;
    }
    received_.resize(have + got);
    if (got > 0) continue;
    if (have == 0) return false;
    throw Error(fmt::format("{} closed the connection in the middle of a message", peer_name()),
                ECONNRESET);
  }
  return true;
}

std::optional<proto::Envelope> TlsTransport::try_receive(std::int64_t deadline_ns) {
  if (!fill(kPrefixBytes, deadline_ns)) return std::nullopt;
  const std::size_t size = get_size(received_);
  if (size > Channel::kMaximumMessageBytes) {
    throw Error(fmt::format("{} announced a message of {} bytes; at most {} are taken", peer_name(),
                            size, Channel::kMaximumMessageBytes),
                EPROTO);
  }
  fill(kPrefixBytes + size, deadline_ns);
  proto::Envelope envelope;
  const bool parsed =
      envelope.ParseFromArray(received_.data() + kPrefixBytes, static_cast<int>(size));
  // A large description must not keep its memory for the rest of the migration.
  received_ = {};
  if (!parsed) {
    throw Error(fmt::format("{} sent {} bytes that are no message", peer_name(), size), EPROTO);
  }
  if (envelope.body_case() == proto::Envelope::BODY_NOT_SET) {
    throw Error(fmt::format("{} sent a message of a kind that is not known here", peer_name()),
                EPROTO);
  }
  return envelope;
}

}  // namespace

std::string body_name(const proto::Envelope& envelope) {
  const auto* field = set_field(envelope);
  return field == nullptr ? "nothing" : field->message_type()->name();
}

Channel::Channel(TlsStream stream)
    : transport_(std::make_unique<TlsTransport>(std::move(stream))) {}

void Channel::send(const proto::Envelope& envelope, std::int64_t deadline_ns) {
  transport_->send(envelope, deadline_ns);
}

std::optional<proto::Envelope> Channel::try_receive(std::int64_t deadline_ns) {
  return transport_->try_receive(deadline_ns);
}

proto::Envelope Channel::receive(std::int64_t deadline_ns) {
  std::optional<proto::Envelope> envelope = try_receive(deadline_ns);
  if (!envelope) {
    throw Error(fmt::format("{} closed the connection", peer_name()), ECONNRESET);
  }
  return std::move(*envelope);
}

void Channel::check_not_aborted(const proto::Envelope& envelope) const {
  if (!envelope.has_abort()) return;
  throw PeerAborted(fmt::format("{}: {}", peer_name(), printable(envelope.abort().story())), 0,
                    printable(envelope.abort().hint()));
}

void Channel::refuse_unexpected(const proto::Envelope& envelope,
                                const std::string& expected) const {
  throw Error(
      fmt::format("{} sent {} where {} was expected", peer_name(), body_name(envelope), expected),
      EPROTO);
}

google::protobuf::Message& Channel::body_of(proto::Envelope& envelope,
                                            const google::protobuf::Descriptor& type) {
  const google::protobuf::OneofDescriptor* body = envelope.GetDescriptor()->oneof_decl(0);
  for (int i = 0; i < body->field_count(); ++i) {
    if (body->field(i)->message_type() != &type) continue;
    return *envelope.GetReflection()->MutableMessage(&envelope, body->field(i));
  }
  fail("{} is not a message of the control connection", type.name());
}

google::protobuf::Message& Channel::expected_body(proto::Envelope& envelope,
                                                  const google::protobuf::Descriptor& type) const {
  if (&type != proto::Abort::descriptor()) check_not_aborted(envelope);
  const auto* field = set_field(envelope);
  if (field == nullptr || field->message_type() != &type) refuse_unexpected(envelope, type.name());
  return *envelope.GetReflection()->MutableMessage(&envelope, field);
}

}  // namespace godwit
