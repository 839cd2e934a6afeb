// A connection that speaks lines ending in \r\n and counted bytes, as HTTP and memcached do.
#pragma once

#include <poll.h>

#include <string>
#include <string_view>

#include "integration/clients/resp.h"

namespace godwit::client {

// Blocking; owned by one thread. Throws std::runtime_error when the connection breaks, ends early
// or stays silent for ten seconds.
class LineSocket {
 public:
  LineSocket(const std::string& host, const std::string& port) : fd_(connect_to(host, port)) {}
  ~LineSocket() { close(fd_); }
  LineSocket(const LineSocket&) = delete;
  LineSocket& operator=(const LineSocket&) = delete;

  void send(std::string_view bytes) {
    if (!send_all(fd_, bytes)) {
      throw std::runtime_error(fmt::format("sending: {}", std::strerror(errno)));
    }
  }

  // What is returned is valid until the next call. A line comes without its end.
  std::string_view line() {
    for (;;) {
      const size_t end = buffer_.find("\r\n", used_);
      if (end != std::string::npos) {
        const std::string_view found = std::string_view(buffer_).substr(used_, end - used_);
        used_ = end + 2;
        return found;
      }
      if (!read_more()) throw std::runtime_error("the connection ended within a line");
    }
  }

  std::string_view bytes(size_t count) {
    while (buffer_.size() - used_ < count) {
      if (!read_more()) throw std::runtime_error("the connection ended within an answer");
    }
    const std::string_view found = std::string_view(buffer_).substr(used_, count);
    used_ += count;
    return found;
  }

  // The other side has closed, and nothing is left.
  bool ended() { return buffer_.size() == used_ && !read_more(); }

 private:
  static constexpr int kAnswerMs = 10'000;
  static constexpr size_t kReadBytes = 65536;

  bool read_more() {
    buffer_.erase(0, used_);
    used_ = 0;
    pollfd waiting{fd_, POLLIN, 0};
    if (poll(&waiting, 1, kAnswerMs) == 0) throw std::runtime_error("no answer for ten seconds");
    const size_t had = buffer_.size();
    buffer_.resize(had + kReadBytes);
    ssize_t got = 0;
    do {
      got = recv(fd_, buffer_.data() + had, kReadBytes, 0);
    } while (got < 0 && errno == EINTR);
    const int error = errno;
    buffer_.resize(had + (got > 0 ? static_cast<size_t>(got) : 0));
    if (got < 0) throw std::runtime_error(fmt::format("receiving: {}", std::strerror(error)));
    return got > 0;
  }

  int fd_;
  std::string buffer_;
  size_t used_ = 0;
};

}  // namespace godwit::client
