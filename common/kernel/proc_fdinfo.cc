#include "common/kernel/proc_fdinfo.h"

#include <dirent.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <algorithm>
#include <charconv>
#include <cstdlib>

namespace godwit {
namespace {

std::string_view trim(std::string_view text) {
  const auto start = text.find_first_not_of(" \t");
  if (start == std::string_view::npos) return {};
  return text.substr(start, text.find_last_not_of(" \t\n") - start + 1);
}

template <typename Number>
Number number(std::string_view text, int base, std::string_view line) {
  Number value = 0;
  text = trim(text);
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, base);
  if (error != std::errc() || end == text.data()) fail("malformed fdinfo line '{}'", line);
  return value;
}

// The number behind "key:" in a line such as "tfd: 3 events: 19 data: 3  pos:0 ino:40f sdev:10".
std::uint64_t field(std::string_view line, std::string_view key, int base) {
  const auto at = line.find(key);
  if (at == std::string_view::npos) return 0;
  const auto rest = trim(line.substr(at + key.size()));
  return number<std::uint64_t>(rest.substr(0, rest.find(' ')), base, line);
}

// The kernel prints its own dev_t here: 12 bits major above 20 bits minor.
std::uint64_t from_kernel_device(std::uint64_t device) {
  return makedev(device >> 20, device & 0xfffff);
}

EpollLine parse_epoll_line(std::string_view line) {
  EpollLine out;
  out.fd = static_cast<int>(field(line, "tfd:", 10));
  out.events = static_cast<std::uint32_t>(field(line, "events:", 16));
  out.data = field(line, "data:", 16);
  out.inode = field(line, "ino:", 16);
  out.device = from_kernel_device(field(line, "sdev:", 16));
  return out;
}

// "(seconds, nanoseconds)"
std::int64_t parse_time(std::string_view value, std::string_view line) {
  const auto open = value.find('(');
  const auto comma = value.find(',');
  if (open == std::string_view::npos || comma == std::string_view::npos || comma < open) {
    fail("malformed fdinfo line '{}'", line);
  }
  return number<std::int64_t>(value.substr(open + 1, comma - open - 1), 10, line) * 1'000'000'000 +
         number<std::int64_t>(value.substr(comma + 1), 10, line);
}

TimerFdLines& timer_of(FdInfo& info) {
  if (!info.timer) info.timer.emplace();
  return *info.timer;
}

void parse_line(std::string_view line, FdInfo& info) {
  const auto colon = line.find(':');
  if (colon == std::string_view::npos) return;
  const auto key = line.substr(0, colon);
  const auto value = trim(line.substr(colon + 1));
  if (key == "pos") {
    info.offset = number<std::int64_t>(value, 10, line);
  } else if (key == "flags") {
    info.flags = number<std::uint32_t>(value, 8, line);
  } else if (key == "ino") {
    info.inode = number<std::uint64_t>(value, 10, line);
  } else if (key == "eventfd-count") {
    info.eventfd_count = number<std::uint64_t>(value, 16, line);
  } else if (key == "eventfd-id") {
    info.eventfd_id = 1 + number<std::uint64_t>(value, 10, line);
  } else if (key == "eventfd-semaphore") {
    info.eventfd_semaphore = number<int>(value, 10, line) != 0;
  } else if (key == "sigmask") {
    info.signal_mask = number<std::uint64_t>(value, 16, line);
  } else if (key == "tfd") {
    info.epoll.push_back(parse_epoll_line(line));
  } else if (key == "clockid") {
    timer_of(info).clock = number<int>(value, 10, line);
  } else if (key == "ticks") {
    timer_of(info).ticks = number<std::uint64_t>(value, 10, line);
  } else if (key == "settime flags") {
    timer_of(info).set_flags = number<int>(value, 8, line);
  } else if (key == "it_value") {
    timer_of(info).value_ns = parse_time(value, line);
  } else if (key == "it_interval") {
    timer_of(info).interval_ns = parse_time(value, line);
  } else if (key == "lock") {
    info.locks.emplace_back(value);
  } else if (key == "scm_fds") {
    info.descriptors_in_flight = number<std::uint64_t>(value, 10, line);
  }
}

UniqueFd open_directory(pid_t pid, const char* name) {
  return open_file(fmt::format("/proc/{}/{}", pid, name), O_RDONLY | O_DIRECTORY);
}

}  // namespace

FdInfo parse_fdinfo(std::string_view text) {
  FdInfo info;
  while (!text.empty()) {
    const auto end = std::min(text.find('\n'), text.size());
    parse_line(text.substr(0, end), info);
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return info;
}

ProcFdDirectory::ProcFdDirectory(pid_t pid)
    : pid_(pid),
      fd_directory_(open_directory(pid, "fd")),
      info_directory_(open_directory(pid, "fdinfo")) {}

std::vector<int> ProcFdDirectory::list() const {
  // A new open file each time: readdir keeps its place in it.
  UniqueFd directory = open_directory(pid_, "fd");
  DIR* stream = fdopendir(directory.get());
  if (stream == nullptr) throw_system("list /proc/{}/fd", pid_);
  (void)directory.release();
  std::vector<int> out;
  while (const dirent* entry = readdir(stream)) {
    if (entry->d_name[0] != '.') out.push_back(std::atoi(entry->d_name));
  }
  closedir(stream);
  std::sort(out.begin(), out.end());
  return out;
}

std::optional<std::size_t> ProcFdDirectory::count() const {
  struct stat status {};
  if (fstat(fd_directory_.get(), &status) != 0) throw_system("stat /proc/{}/fd", pid_);
  if (status.st_size == 0) return std::nullopt;
  return static_cast<std::size_t>(status.st_size);
}

std::optional<std::string> ProcFdDirectory::link(int fd) const {
  char out[4096];  // PATH_MAX
  const std::string name = std::to_string(fd);
  const auto bytes = readlinkat(fd_directory_.get(), name.c_str(), out, sizeof out);
  if (bytes < 0) {
    if (errno == ENOENT || errno == ESRCH) return std::nullopt;
    throw_system("read the link /proc/{}/fd/{}", pid_, fd);
  }
  return std::string(out, static_cast<std::size_t>(bytes));
}

UniqueFd ProcFdDirectory::open_info(int fd) const {
  const std::string name = std::to_string(fd);
  UniqueFd file(openat(info_directory_.get(), name.c_str(), O_RDONLY | O_CLOEXEC));
  if (!file.valid() && errno != ENOENT && errno != ESRCH) {
    throw_system("open /proc/{}/fdinfo/{}", pid_, fd);
  }
  return file;
}

bool ProcFdDirectory::read_info_again(const UniqueFd& info, std::string& text) {
  constexpr std::size_t kBlockBytes = 4096;
  std::size_t have = 0;
  for (;;) {
    text.resize(have + kBlockBytes);
    const auto bytes = pread(info.get(), text.data() + have, kBlockBytes, static_cast<off_t>(have));
    if (bytes < 0 && errno != ENOENT && errno != ESRCH) throw_system("read a file of fdinfo");
    if (bytes < 0) return false;
    have += static_cast<std::size_t>(bytes);
    if (static_cast<std::size_t>(bytes) < kBlockBytes) break;
  }
  text.resize(have);
  return true;
}

std::optional<std::string> ProcFdDirectory::info_text(int fd) const {
  const UniqueFd file = open_info(fd);
  std::string text;
  if (!file.valid() || !read_info_again(file, text)) return std::nullopt;
  text.shrink_to_fit();  // who keeps thousands of them
  return text;
}

std::optional<FdInfo> ProcFdDirectory::info(int fd) const {
  const auto text = info_text(fd);
  return text ? std::optional(parse_fdinfo(*text)) : std::nullopt;
}

std::string ProcFdDirectory::path(int fd) const { return fmt::format("/proc/{}/fd/{}", pid_, fd); }

}  // namespace godwit
