#include "common/base/unique_fd.h"

#include <array>
#include <climits>

namespace godwit {

UniqueFd try_open_file(const std::string& path, int flags, int mode) {
  return UniqueFd(::open(path.c_str(), flags | O_CLOEXEC, mode));
}

UniqueFd open_file(const std::string& path, int flags, int mode) {
  UniqueFd fd = try_open_file(path, flags, mode);
  if (!fd.valid()) throw_system("open {}", path);
  return fd;
}

UniqueFd duplicate_fd(int fd) {
  UniqueFd copy(::fcntl(fd, F_DUPFD_CLOEXEC, 3));
  if (!copy.valid()) throw_system("duplicate descriptor {}", fd);
  return copy;
}

std::string read_all(int fd, const std::string& name) {
  std::string text;
  std::array<char, 65536> chunk;
  for (;;) {
    const ssize_t got = ::read(fd, chunk.data(), chunk.size());
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) throw_system("read {}", name);
    if (got == 0) return text;
    text.append(chunk.data(), static_cast<size_t>(got));
  }
}

std::string read_file(const std::string& path) {
  const UniqueFd fd = open_file(path, O_RDONLY);
  return read_all(fd.get(), path);
}

void write_file(const std::string& path, const std::string& text) {
  const UniqueFd fd = open_file(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
  size_t done = 0;
  while (done < text.size()) {
    const ssize_t put = ::write(fd.get(), text.data() + done, text.size() - done);
    if (put < 0 && errno == EINTR) continue;
    if (put < 0) throw_system("write {}", path);
    done += static_cast<size_t>(put);
  }
}

std::string read_link(const std::string& path) {
  std::array<char, PATH_MAX> target;
  const ssize_t size = ::readlink(path.c_str(), target.data(), target.size());
  if (size < 0) throw_system("readlink {}", path);
  return std::string(target.data(), static_cast<size_t>(size));
}

}  // namespace godwit
