// What tells whether a path still leads to an open file, and whether two hosts have the same file
// there (stat(2), statfs(2)).
#pragma once

#include <sys/stat.h>
#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>

namespace godwit {

struct FileStamp {
  std::uint64_t device = 0;  // st_dev
  std::uint64_t inode = 0;
  std::uint32_t mode = 0;     // st_mode
  std::uint64_t rdevice = 0;  // st_rdev
  std::uint64_t links = 0;
  std::uint64_t bytes = 0;
  std::int64_t modified_ns = 0;
  std::int64_t changed_ns = 0;  // st_ctim

  friend bool operator==(const FileStamp&, const FileStamp&) = default;

  bool is_same_file(const FileStamp& other) const {
    return device == other.device && inode == other.inode;
  }
};

FileStamp stamp_of(const struct stat& status);
// Follows symbolic links, those of /proc/PID/fd included. nullopt: nothing there (errno says why).
std::optional<FileStamp> try_stamp(const std::string& path);
// Of an open file; throws Error with `name`.
FileStamp stamp_fd(int fd, const std::string& name);

// The name of a file system whose files are made up by the kernel and mean another thing on another
// host ("proc", "sysfs", "cgroup"), or nullptr. `path` may be /proc/PID/fd/N.
const char* kernel_file_system(const std::string& path);

// Where a process's path is found from here: the path itself when the process has our mount
// namespace, else through /proc/PID/root.
std::string reachable_path(pid_t pid, const std::string& path);

}  // namespace godwit
