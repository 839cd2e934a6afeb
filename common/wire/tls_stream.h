// TLS 1.3 over a connected stream socket, with certificates on both sides.
//
// Who may talk: a certificate signed by the cluster's authority, valid now, whose subject has
// OU=godwit-<role> with the role that this side expects of its peer. The subject's CN is the host's
// name and is only told, never checked: addresses move, roles don't.
//
// A TLS 1.3 client finishes its handshake before the server has looked at the client's certificate.
// So that connect() can tell a refusal, the server's first byte inside TLS is a greeting, which
// accept() writes and connect() reads: when connect() returns, both sides have accepted each other.
//
// Deadlines are moments of CLOCK_MONOTONIC in nanoseconds (base/clock.h). Thread: one at a time.
// Errors: Error with code ETIMEDOUT (deadline), ECONNRESET or EPIPE (connection lost), EPROTO (not
// TLS, alerts), EACCES (a certificate was refused, by this side or by the peer).
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "common/base/unique_fd.h"
#include "proto/page_service.pb.h"

namespace godwit {

// PEM texts of this side's certificate, its key, the authority; `peer_role` is the role expected of
// the other side, "source" or "destination".
using TlsMaterial = proto::TlsMaterial;

inline constexpr std::int64_t kNoDeadline = std::numeric_limits<std::int64_t>::max();

// Loads what OpenSSL loads lazily, so that a sandbox without open(2) can be entered. Idempotent.
void prepare_tls();

// The organizational unit of a role's certificates: "godwit-source".
std::string tls_role_unit(std::string_view role);

class TlsStream {
 public:
  // The socket must be connected; it is made non-blocking, with TCP_NODELAY where it is TCP. Both
  // return after the whole handshake, greeting included. Throw Error; see above.
  static TlsStream connect(UniqueFd socket, const TlsMaterial& material, std::int64_t deadline_ns);
  static TlsStream accept(UniqueFd socket, const TlsMaterial& material, std::int64_t deadline_ns);

  TlsStream(TlsStream&&) noexcept;
  TlsStream& operator=(TlsStream&&) noexcept;
  ~TlsStream();  // closes without a word, which the peer sees as a lost connection

  // At least one byte, or 0 when the peer closed the stream in an orderly way.
  std::size_t read_some(std::span<std::byte> to, std::int64_t deadline_ns = kNoDeadline);
  // All of it; the end of the stream is an Error.
  void read(std::span<std::byte> to, std::int64_t deadline_ns = kNoDeadline);
  // All of it, handed to the kernel before this returns.
  void write(std::span<const std::byte> from, std::int64_t deadline_ns = kNoDeadline);
  // The same, but a part may wait here for the next write(), with which it then travels.
  void write_more(std::span<const std::byte> from, std::int64_t deadline_ns = kNoDeadline);
  // Says goodbye (close_notify), so that the peer reads an orderly end. No more writes after it.
  void close() noexcept;

  // For poll(2): a stream with decrypted or buffered bytes is readable whatever the socket says.
  bool has_pending() const;
  int fd() const;
  // CN of the peer's certificate.
  const std::string& peer_name() const;
  std::string cipher() const;

 private:
  struct State;
  void write(std::span<const std::byte> from, std::int64_t deadline_ns, bool flush);
  explicit TlsStream(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace godwit
