#include "common/model/command_line_values.h"

#include <arpa/inet.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <limits>
#include <optional>
#include <utility>

#include "common/base/error.h"

namespace godwit {
namespace {

std::optional<std::int64_t> try_whole(std::string_view text) {
  std::int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || text.empty()) return {};
  return value;
}

// A number without sign or exponent, with a unit behind it: {12.5, "ms"}.
std::optional<std::pair<double, std::string_view>> try_split_unit(std::string_view text) {
  const std::size_t size = std::min(text.find_first_not_of("0123456789."), text.size());
  double value = 0;
  const auto [end, error] =
      std::from_chars(text.data(), text.data() + size, value, std::chars_format::fixed);
  if (error != std::errc() || end != text.data() + size || size == 0) return {};
  return std::pair{value, text.substr(size)};
}

bool is_host_name(std::string_view host) {
  const auto allowed = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' ||
           c == '.' || c == '_';
  };
  return !host.empty() && host.size() <= 253 && host.front() != '-' && host.front() != '.' &&
         std::all_of(host.begin(), host.end(), allowed);
}

// 10.0.0.300 would be looked up as a name, and the answer would confuse.
bool looks_like_ipv4(std::string_view host) {
  return host.find_first_not_of("0123456789.") == std::string_view::npos;
}

[[noreturn]] void bad_endpoint(std::string_view text, std::string_view why) {
  fail("'{}' is not an address with a port: {}; write 10.0.0.2:7000, [fd00::2]:7000 or host:7000",
       text, why);
}

void check_host(std::string_view text, const std::string& host, bool bracketed) {
  std::array<unsigned char, sizeof(in6_addr)> address;
  if (bracketed) {
    // A link-local address carries its interface: fe80::1%eth0.
    const std::string plain = host.substr(0, host.find('%'));
    if (inet_pton(AF_INET6, plain.c_str(), address.data()) != 1) {
      bad_endpoint(text, fmt::format("'{}' is not an IPv6 address", host));
    }
    return;
  }
  if (host.empty()) bad_endpoint(text, "the address is missing");
  if (host.find(':') != std::string::npos) bad_endpoint(text, "an IPv6 address needs brackets");
  if (looks_like_ipv4(host) && inet_pton(AF_INET, host.c_str(), address.data()) != 1) {
    bad_endpoint(text, fmt::format("'{}' is not an IPv4 address", host));
  }
  if (!is_host_name(host)) bad_endpoint(text, fmt::format("'{}' is not a host name", host));
}

template <std::size_t size>
std::optional<double> try_factor(const std::array<std::pair<std::string_view, double>, size>& units,
                                 std::string_view unit) {
  for (const auto& [name, factor] : units) {
    if (name == unit) return factor;
  }
  return std::nullopt;
}

}  // namespace

std::string HostPort::text() const {
  return host.find(':') != std::string::npos ? fmt::format("[{}]:{}", host, port)
                                             : fmt::format("{}:{}", host, port);
}

HostPort parse_host_port(std::string_view text, bool any_port) {
  HostPort endpoint;
  const std::size_t colon = text.rfind(':');
  const bool bracketed = !text.empty() && text.front() == '[';
  if (bracketed) {
    const std::size_t close = text.find(']');
    if (close == std::string_view::npos) bad_endpoint(text, "']' is missing");
    if (close + 1 != colon) bad_endpoint(text, "the port is missing");
    endpoint.host = text.substr(1, close - 1);
  } else {
    if (colon == std::string_view::npos) bad_endpoint(text, "the port is missing");
    endpoint.host = text.substr(0, colon);
  }
  check_host(text, endpoint.host, bracketed);
  const std::optional<std::int64_t> port = try_whole(text.substr(colon + 1));
  if (!port || *port < (any_port ? 0 : 1) || *port > 65535) {
    bad_endpoint(text, fmt::format("'{}' is not a port (1 to 65535)", text.substr(colon + 1)));
  }
  endpoint.port = static_cast<std::uint16_t>(*port);
  return endpoint;
}

std::int64_t parse_duration_ns(std::string_view text) {
  static constexpr std::array<std::pair<std::string_view, double>, 5> kUnits{
      {{"ns", 1.0}, {"us", 1e3}, {"ms", 1e6}, {"s", 1e9}, {"m", 60e9}}};
  const auto split = try_split_unit(text);
  if (split && split->first == 0 && split->second.empty()) return 0;
  const std::optional<double> factor = split ? try_factor(kUnits, split->second) : std::nullopt;
  if (!factor) {
    fail("'{}' is not a duration: write a number and a unit (ns, us, ms, s, m), such as 10ms",
         text);
  }
  const double value = split->first * *factor;
  constexpr double kLongest = 24 * 3600e9;
  if (value > kLongest) fail("the duration '{}' is longer than a day", text);
  return std::llround(value);
}

std::uint64_t parse_bandwidth_bytes_per_s(std::string_view text) {
  static constexpr std::array<std::pair<std::string_view, double>, 8> kUnits{
      {{"", 1.0},
       {"k", 1e3},
       {"K", 1e3},
       {"M", 1e6},
       {"G", 1e9},
       {"Ki", 1024.0},
       {"Mi", 1048576.0},
       {"Gi", 1073741824.0}}};
  const auto split = try_split_unit(text);
  const std::optional<double> factor = split ? try_factor(kUnits, split->second) : std::nullopt;
  if (!factor) {
    fail("'{}' is not a rate: write bytes per second, such as 100M, 1.5G, 64Mi, or 0 for unlimited",
         text);
  }
  const double value = split->first * *factor;
  if (value > 1e15) fail("the rate '{}' is beyond any network", text);
  if (value > 0 && value < 1) fail("the rate '{}' is less than a byte per second", text);
  return static_cast<std::uint64_t>(std::llround(value));
}

pid_t parse_pid(std::string_view text) {
  const std::optional<std::int64_t> value = try_whole(text);
  if (!value || *value < 1 || *value > std::numeric_limits<pid_t>::max()) {
    fail("'{}' is not a process id: write a positive number", text);
  }
  return static_cast<pid_t>(*value);
}

std::int64_t parse_count(std::string_view text, std::int64_t low, std::int64_t high,
                         std::string_view what) {
  const std::optional<std::int64_t> value = try_whole(text);
  if (!value || *value < low || *value > high) {
    fail("'{}' is not a number that {} takes: {} to {}", text, what, low, high);
  }
  return *value;
}

}  // namespace godwit
