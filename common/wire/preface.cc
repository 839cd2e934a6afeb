#include "common/wire/preface.h"

#include <fmt/format.h>
#include <poll.h>
#include <sys/random.h>
#include <sys/socket.h>

#include <algorithm>
#include <cstring>

#include "common/base/clock.h"
#include "common/base/error.h"

namespace godwit {
namespace {

constexpr std::string_view kMagic = "GODWIT1\n";
constexpr std::size_t kIdDigits = 16;
constexpr std::size_t kKindAt = kMagic.size();
constexpr std::size_t kIdAt = kKindAt + 1;
constexpr std::size_t kPaddingAt = kIdAt + kIdDigits;

// Waits until the socket is readable or the deadline has passed.
void wait_readable(int socket, std::int64_t deadline_ns) {
  for (;;) {
    const std::int64_t left_ns = deadline_ns - monotonic_ns();
    if (left_ns <= 0) throw Error("no preface came in time", ETIMEDOUT);
    pollfd item{socket, POLLIN, 0};
    const std::int64_t left_ms = std::min<std::int64_t>(left_ns / 1'000'000 + 1, 60'000);
    const int ready = ::poll(&item, 1, static_cast<int>(left_ms));
    if (ready < 0 && errno != EINTR) throw_system("poll for the preface");
    if (ready > 0) return;
  }
}

}  // namespace

bool is_migration_id(std::string_view text) {
  return text.size() == kIdDigits &&
         text.find_first_not_of("0123456789abcdef") == std::string_view::npos;
}

std::string make_migration_id() {
  std::uint64_t number = 0;
  if (::getrandom(&number, sizeof(number), 0) != sizeof(number)) throw_system("getrandom");
  return fmt::format("{:016x}", number);
}

std::array<std::byte, kPrefaceBytes> encode_preface(const Preface& preface) {
  if (!is_migration_id(preface.migration_id)) {
    fail("'{}' is not a migration id", preface.migration_id);
  }
  std::array<std::byte, kPrefaceBytes> bytes{};
  std::memcpy(bytes.data(), kMagic.data(), kMagic.size());
  bytes[kKindAt] = static_cast<std::byte>(preface.kind);
  std::memcpy(bytes.data() + kIdAt, preface.migration_id.data(), kIdDigits);
  return bytes;
}

std::optional<Preface> parse_preface(std::span<const std::byte> bytes) {
  if (bytes.size() != kPrefaceBytes) return std::nullopt;
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  const char kind = text[kKindAt];
  const std::string_view id = text.substr(kIdAt, kIdDigits);
  const std::string_view padding = text.substr(kPaddingAt);
  if (!text.starts_with(kMagic) || !is_migration_id(id)) return std::nullopt;
  if (kind != static_cast<char>(ConnectionKind::kControl) &&
      kind != static_cast<char>(ConnectionKind::kPages) &&
      kind != static_cast<char>(ConnectionKind::kFaults) &&
      kind != static_cast<char>(ConnectionKind::kResume)) {
    return std::nullopt;
  }
  if (padding.find_first_not_of('\0') != std::string_view::npos) return std::nullopt;
  return Preface{static_cast<ConnectionKind>(kind), std::string(id)};
}

void send_preface(int socket, const Preface& preface) {
  const auto bytes = encode_preface(preface);
  std::size_t done = 0;
  while (done < bytes.size()) {
    const ssize_t sent = ::send(socket, bytes.data() + done, bytes.size() - done, MSG_NOSIGNAL);
    if (sent < 0 && errno == EINTR) continue;
    if (sent < 0) throw_system("send the preface");
    done += static_cast<std::size_t>(sent);
  }
}

std::optional<Preface> read_preface(int socket, std::int64_t deadline_ns) {
  std::array<std::byte, kPrefaceBytes> bytes{};
  std::size_t done = 0;
  while (done < bytes.size()) {
    wait_readable(socket, deadline_ns);
    const ssize_t got = ::recv(socket, bytes.data() + done, bytes.size() - done, MSG_DONTWAIT);
    if (got < 0 && (errno == EINTR || errno == EAGAIN)) continue;
    if (got < 0) throw_system("read the preface");
    if (got == 0) throw Error("the peer closed the connection before its preface", ECONNRESET);
    done += static_cast<std::size_t>(got);
  }
  return parse_preface(bytes);
}

}  // namespace godwit
