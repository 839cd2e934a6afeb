// Values as people write them on a command line: addresses, durations, rates.
//
// Every function throws Error with a sentence that quotes the text and says what would be right.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <string_view>

namespace godwit {

// ADDR:PORT, [IPV6]:PORT or NAME:PORT. The host is kept as written, without brackets.
struct HostPort {
  std::string host;
  std::uint16_t port = 0;

  // As parse_host_port reads it.
  std::string text() const;
  friend bool operator==(const HostPort&, const HostPort&) = default;
};

// Port 0 is taken only with `any_port` (a listener that lets the kernel choose).
HostPort parse_host_port(std::string_view text, bool any_port = false);

// A number with a unit: ns, us, ms, s, m; fractions are fine ("1.5ms"). Only "0" goes without one.
std::int64_t parse_duration_ns(std::string_view text);

// Bytes per second: a number with an optional k, M, G (powers of 1000) or Ki, Mi, Gi (of 1024).
// 0 means unlimited.
std::uint64_t parse_bandwidth_bytes_per_s(std::string_view text);

// A process id: a positive decimal number.
pid_t parse_pid(std::string_view text);

// A whole number in [low, high]; `what` is the option's name for the message.
std::int64_t parse_count(std::string_view text, std::int64_t low, std::int64_t high,
                         std::string_view what);

}  // namespace godwit
