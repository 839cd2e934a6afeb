// The first 32 bytes of every connection to a destination, in plaintext before TLS: what the
// connection is for, so that the daemon can hand it to the right session unopened.
//
//   offset 0   "GODWIT1\n"
//   offset 8   kind: 'C' control, 'P' pages, 'F' page faults, 'R' control that resumes
//   offset 9   migration id, 16 lower-case hex digits
//   offset 25  seven zero bytes
//
// Nothing in it is believed: who the peer is and what it may do is TLS's matter, and a page
// or fault connection shows its token inside TLS.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace godwit {

inline constexpr std::size_t kPrefaceBytes = 32;

enum class ConnectionKind : char { kControl = 'C', kPages = 'P', kFaults = 'F', kResume = 'R' };

struct Preface {
  ConnectionKind kind = ConnectionKind::kControl;
  std::string migration_id;
  friend bool operator==(const Preface&, const Preface&) = default;
};

// 16 lower-case hex digits.
bool is_migration_id(std::string_view text);
// A new one, from getrandom(2).
std::string make_migration_id();

// Throws Error when the id is not one.
std::array<std::byte, kPrefaceBytes> encode_preface(const Preface& preface);
// Nothing unless every byte is as above.
std::optional<Preface> parse_preface(std::span<const std::byte> bytes);

// Writes it to a connected socket; throws Error.
void send_preface(int socket, const Preface& preface);
// Reads exactly the 32 bytes, no more; nothing when the peer sent something else. Throws Error with
// code ETIMEDOUT at `deadline_ns` (CLOCK_MONOTONIC), ECONNRESET when the peer closed before.
std::optional<Preface> read_preface(int socket, std::int64_t deadline_ns);

}  // namespace godwit
