// The descriptors of a process: /proc/PID/fd and /proc/PID/fdinfo (proc(5)).
//
// fdinfo gained fields over the years, so everything is parsed by key and what is not there stays
// unset. All functions work on a running process; what they return may be outdated at once.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/base/unique_fd.h"

namespace godwit {

// One line of an epoll descriptor: a target under the number it was added with.
struct EpollLine {
  int fd = -1;
  std::uint32_t events = 0;
  std::uint64_t data = 0;
  std::uint64_t inode = 0;
  std::uint64_t device = 0;  // makedev(major, minor)
};

struct TimerFdLines {
  int clock = 0;
  std::uint64_t ticks = 0;
  int set_flags = 0;
  std::int64_t value_ns = 0;  // remaining; 0: disarmed
  std::int64_t interval_ns = 0;
};

struct FdInfo {
  std::int64_t offset = 0;
  std::uint32_t flags = 0;  // status flags, and O_CLOEXEC for the descriptor
  std::uint64_t inode = 0;  // 0 before Linux 5.14
  std::optional<std::uint64_t> eventfd_count;
  std::uint64_t eventfd_id = 0;           // each has another; 0 before Linux 5.2
  std::optional<bool> eventfd_semaphore;  // since Linux 6.5
  std::optional<std::uint64_t> signal_mask;
  std::optional<TimerFdLines> timer;
  std::vector<EpollLine> epoll;
  std::vector<std::string> locks;           // "lock:" lines, without the key
  std::uint64_t descriptors_in_flight = 0;  // unix socket: SCM_RIGHTS queued to it
};

// Throws Error for a malformed number.
FdInfo parse_fdinfo(std::string_view text);

// The descriptor directory of one process, opened once.
class ProcFdDirectory {
 public:
  // Throws Error naming the pid.
  explicit ProcFdDirectory(pid_t pid);

  std::vector<int> list() const;  // ascending
  // How many are open, without listing them (Linux 6.2); nullopt where the kernel does not tell.
  std::optional<std::size_t> count() const;
  // What readlink says: a path, "socket:[12]", "anon_inode:[eventfd]"; nullopt: closed meanwhile.
  std::optional<std::string> link(int fd) const;
  std::optional<FdInfo> info(int fd) const;
  // The text of it.
  std::optional<std::string> info_text(int fd) const;
  // A descriptor that read_info_again() reads any number of times: it tells of whatever is open
  // under that number then. Invalid: closed meanwhile.
  UniqueFd open_info(int fd) const;
  // False: nothing is open under that number.
  static bool read_info_again(const UniqueFd& info, std::string& text);
  std::string path(int fd) const;  // /proc/PID/fd/N, for stat(2) of the open file itself

 private:
  pid_t pid_;
  UniqueFd fd_directory_;
  UniqueFd info_directory_;
};

}  // namespace godwit
