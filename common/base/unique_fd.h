// An owned file descriptor: closed once, never copied, never silently an int.
#pragma once

#include <fcntl.h>
#include <unistd.h>

#include <string>
#include <utility>

#include "common/base/error.h"

namespace godwit {

class UniqueFd {
 public:
  UniqueFd() = default;
  explicit UniqueFd(int fd) : fd_(fd) {}
  UniqueFd(UniqueFd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  UniqueFd& operator=(UniqueFd&& other) noexcept {
    if (this != &other) reset(std::exchange(other.fd_, -1));
    return *this;
  }
  UniqueFd(const UniqueFd&) = delete;
  UniqueFd& operator=(const UniqueFd&) = delete;
  ~UniqueFd() { reset(); }

  int get() const { return fd_; }
  bool valid() const { return fd_ >= 0; }
  [[nodiscard]] int release() { return std::exchange(fd_, -1); }
  void reset(int fd = -1) {
    if (fd_ >= 0) ::close(fd_);
    fd_ = fd;
  }

 private:
  int fd_ = -1;
};

// Opens with O_CLOEXEC; throws Error naming the path.
UniqueFd open_file(const std::string& path, int flags, int mode = 0);
// The descriptor, or an invalid one with errno set.
UniqueFd try_open_file(const std::string& path, int flags, int mode = 0);
// A duplicate with O_CLOEXEC.
UniqueFd duplicate_fd(int fd);

// Whole small files (procfs, sysfs): throws Error naming the path.
std::string read_file(const std::string& path);
std::string read_all(int fd, const std::string& name);
void write_file(const std::string& path, const std::string& text);
// Target of a symbolic link such as /proc/PID/exe.
std::string read_link(const std::string& path);

}  // namespace godwit
