#include "source-agent/terminal.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#include "common/base/clock.h"
#include "common/base/error.h"

namespace godwit {
namespace {

constexpr std::size_t kPendingBytesMax = 64 << 10;

winsize size_of(int fd) {
  winsize size{};
  if (::ioctl(fd, TIOCGWINSZ, &size) != 0) return {};
  return size;
}

}  // namespace

std::optional<Terminal> Terminal::try_open(int fd) {
  if (::isatty(fd) != 1) return std::nullopt;
  UniqueFd own(::open(fmt::format("/proc/self/fd/{}", fd).c_str(),
                      O_WRONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC));
  if (!own.valid()) return std::nullopt;
  return Terminal(std::move(own));
}

void Terminal::flush() {
  while (!pending_.empty() && !gone_) {
    const ssize_t put = ::write(fd_.get(), pending_.data(), pending_.size());
    if (put < 0 && errno == EINTR) continue;
    if (put < 0 && errno == EAGAIN) return;
    if (put < 0) {
      gone_ = true;
      pending_.clear();
      return;
    }
    pending_.erase(0, static_cast<std::size_t>(put));
  }
}

bool Terminal::put(std::string_view text) {
  if (gone_ || pending_.size() + text.size() > kPendingBytesMax) return false;
  pending_ += text;
  flush();
  return !gone_;
}

bool Terminal::offer(std::string_view text) {
  flush();
  if (gone_ || !pending_.empty()) return false;
  return put(text);
}

void Terminal::drain(std::int64_t deadline_ns) {
  flush();
  while (!pending_.empty() && !gone_) {
    const std::int64_t left_ns = deadline_ns - monotonic_ns();
    if (left_ns <= 0) return;
    pollfd wait{fd_.get(), POLLOUT, 0};
    ::poll(&wait, 1, static_cast<int>(left_ns / 1'000'000) + 1);
    flush();
  }
}

int Terminal::columns() const {
  const int columns = size_of(fd_.get()).ws_col;
  return columns > 0 ? columns : 80;
}

int Terminal::rows() const {
  const int rows = size_of(fd_.get()).ws_row;
  return rows > 0 ? rows : 24;
}

bool Terminal::in_background() const {
  const pid_t foreground = ::tcgetpgrp(fd_.get());
  return foreground > 0 && foreground != ::getpgrp();
}

}  // namespace godwit
