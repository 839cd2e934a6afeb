#include "common/kernel/file_identity.h"

#include <linux/magic.h>
#include <sys/vfs.h>

#include <algorithm>
#include <iterator>

#include "common/base/error.h"
#include "common/base/unique_fd.h"

namespace godwit {
namespace {

struct NamedFileSystem {
  long magic;
  const char* name;
};

constexpr NamedFileSystem kKernelFileSystems[] = {
    {PROC_SUPER_MAGIC, "proc"},       {SYSFS_MAGIC, "sysfs"},     {CGROUP_SUPER_MAGIC, "cgroup"},
    {CGROUP2_SUPER_MAGIC, "cgroup2"}, {DEBUGFS_MAGIC, "debugfs"}, {TRACEFS_MAGIC, "tracefs"},
    {SECURITYFS_MAGIC, "securityfs"}, {BPF_FS_MAGIC, "bpf"},      {0x62656570, "configfs"},
    {0x19800202, "mqueue"},           {0x6e736673, "nsfs"},       {0x50494446, "pidfs"},
};

}  // namespace

FileStamp stamp_of(const struct stat& status) {
  FileStamp out;
  out.device = status.st_dev;
  out.inode = status.st_ino;
  out.mode = status.st_mode;
  out.rdevice = status.st_rdev;
  out.links = status.st_nlink;
  out.bytes = static_cast<std::uint64_t>(status.st_size);
  out.modified_ns = status.st_mtim.tv_sec * 1'000'000'000LL + status.st_mtim.tv_nsec;
  out.changed_ns = status.st_ctim.tv_sec * 1'000'000'000LL + status.st_ctim.tv_nsec;
  return out;
}

std::optional<FileStamp> try_stamp(const std::string& path) {
  struct stat status {};
  if (stat(path.c_str(), &status) != 0) return std::nullopt;
  return stamp_of(status);
}

FileStamp stamp_fd(int fd, const std::string& name) {
  struct stat status {};
  if (fstat(fd, &status) != 0) throw_system("stat {}", name);
  return stamp_of(status);
}

const char* kernel_file_system(const std::string& path) {
  struct statfs status {};
  if (statfs(path.c_str(), &status) != 0) return nullptr;
  const auto* found =
      std::find_if(std::begin(kKernelFileSystems), std::end(kKernelFileSystems),
                   [&](const NamedFileSystem& entry) { return entry.magic == status.f_type; });
  return found == std::end(kKernelFileSystems) ? nullptr : found->name;
}

std::string reachable_path(pid_t pid, const std::string& path) {
  const std::string theirs = read_link(fmt::format("/proc/{}/ns/mnt", pid));
  if (theirs == read_link("/proc/self/ns/mnt")) return path;
  return fmt::format("/proc/{}/root{}", pid, path);
}

}  // namespace godwit
