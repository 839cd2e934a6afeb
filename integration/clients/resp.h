// What the clients share: options, connections, values that can be recomputed, and as much of the
// redis protocol (RESP2) as SET, GET and INCR need.
#pragma once

#include <arpa/inet.h>
#include <fmt/format.h>
#include <fmt/os.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <map>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

namespace godwit::client {

// `--name value` pairs and `--flag` words; the rest is an error.
class Options {
 public:
  Options(int argc, char** argv) {
    for (int i = 1; i < argc; ++i) {
      const std::string_view word = argv[i];
      if (!word.starts_with("--")) {
        throw std::runtime_error(fmt::format("unexpected argument {}", word));
      }
      const bool has_value = i + 1 < argc && !std::string_view(argv[i + 1]).starts_with("--");
      values_[std::string(word.substr(2))] = has_value ? argv[++i] : "";
    }
  }

  bool has(const std::string& name) const { return values_.contains(name); }

  std::string text(const std::string& name, std::string otherwise) const {
    const auto found = values_.find(name);
    return found == values_.end() ? std::move(otherwise) : found->second;
  }

  int64_t number(const std::string& name, int64_t otherwise) const {
    return has(name) ? std::stoll(values_.at(name)) : otherwise;
  }

  double fraction(const std::string& name, double otherwise) const {
    return has(name) ? std::stod(values_.at(name)) : otherwise;
  }

 private:
  std::map<std::string, std::string> values_;
};

inline int64_t clock_ns(clockid_t clock) {
  timespec now{};
  clock_gettime(clock, &now);
  return now.tv_sec * 1'000'000'000LL + now.tv_nsec;
}

inline int64_t monotonic_ns() { return clock_ns(CLOCK_MONOTONIC); }

// SplitMix64: every value of a key is computed again from key and version when it is checked.
class Pattern {
 public:
  explicit Pattern(uint64_t seed) : state_(seed) {}

  uint64_t next() {
    uint64_t mixed = (state_ += 0x9E3779B97F4A7C15u);
    mixed = (mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9u;
    mixed = (mixed ^ (mixed >> 27)) * 0x94D049BB133111EBu;
    return mixed ^ (mixed >> 31);
  }

  void fill(std::string& out, size_t bytes) {
    out.resize(bytes);
    for (size_t at = 0; at < bytes; at += sizeof(uint64_t)) {
      const uint64_t word = next();
      std::memcpy(out.data() + at, &word, std::min(sizeof word, bytes - at));
    }
  }

 private:
  uint64_t state_;
};

// A connected socket of `type`, TCP_NODELAY for streams; throws when nobody answers.
inline int connect_to(const std::string& host, const std::string& port, int type = SOCK_STREAM) {
  addrinfo hints{};
  hints.ai_socktype = type;
  hints.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV;
  addrinfo* found = nullptr;
  if (const int code = getaddrinfo(host.c_str(), port.c_str(), &hints, &found); code != 0) {
    throw std::runtime_error(fmt::format("{}:{}: {}", host, port, gai_strerror(code)));
  }
  const int fd = socket(found->ai_family, type | SOCK_CLOEXEC, 0);
  const int result = fd < 0 ? -1 : connect(fd, found->ai_addr, found->ai_addrlen);
  const int error = errno;
  freeaddrinfo(found);
  if (result < 0) {
    if (fd >= 0) close(fd);
    throw std::system_error(error, std::generic_category(),
                            fmt::format("connect to {}:{}", host, port));
  }
  const int on = 1;
  if (type == SOCK_STREAM) setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  return fd;
}

// False when the connection is gone.
inline bool send_all(int fd, std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t sent = send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (sent < 0 && errno == EINTR) continue;
    if (sent <= 0) return false;
    bytes.remove_prefix(static_cast<size_t>(sent));
  }
  return true;
}

inline void append_command(std::string& out, std::initializer_list<std::string_view> words) {
  fmt::format_to(std::back_inserter(out), "*{}\r\n", words.size());
  for (const std::string_view word : words) {
    fmt::format_to(std::back_inserter(out), "${}\r\n", word.size());
    out.append(word).append("\r\n");
  }
}

struct Reply {
  char type = 0;          // '+' '-' ':' '$'
  std::string_view text;  // valid until the next feed
  int64_t number = 0;     // ':'
  bool missing = false;   // "$-1"
};

class ReplyReader {
 public:
  // Reads what is there; false: the connection is closed. MSG_DONTWAIT: returns at once.
  bool feed(int fd, int flags) {
    buffer_.erase(0, used_);
    used_ = 0;
    const size_t had = buffer_.size();
    buffer_.resize(had + 65536);
    ssize_t got = 0;
    do {
      got = recv(fd, buffer_.data() + had, 65536, flags);
    } while (got < 0 && errno == EINTR);
    const bool again = got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK);
    buffer_.resize(had + (got > 0 ? static_cast<size_t>(got) : 0));
    return got > 0 || again;
  }

  std::optional<Reply> try_next() {
    const size_t line_end = buffer_.find("\r\n", used_);
    if (line_end == std::string::npos) return std::nullopt;
    Reply reply;
    reply.type = buffer_[used_];
    reply.text = std::string_view(buffer_).substr(used_ + 1, line_end - used_ - 1);
    size_t end = line_end + 2;
    if (reply.type == ':' || reply.type == '$') {
      std::from_chars(reply.text.data(), reply.text.data() + reply.text.size(), reply.number);
    }
    if (reply.type == '$' && reply.number < 0) {
      reply.missing = true;
    } else if (reply.type == '$') {
      const size_t bytes = static_cast<size_t>(reply.number);
      if (buffer_.size() < end + bytes + 2) return std::nullopt;
      reply.text = std::string_view(buffer_).substr(end, bytes);
      end += bytes + 2;
    }
    used_ = end;
    return reply;
  }

 private:
  std::string buffer_;
  size_t used_ = 0;
};

// To standard output when `file` is empty.
inline void write_report(const std::string& file, const std::string& text) {
  if (file.empty()) {
    fmt::print("{}\n", text);
  } else {
    fmt::output_file(file).print("{}\n", text);
  }
}

}  // namespace godwit::client
