#include <fmt/format.h>

#include "common/base/unique_fd.h"
#include "common/remote/remote_task_state.h"

namespace godwit {
namespace {

// The line of the one hierarchy of version 2 in /proc/PID/cgroup: "0::/path" (cgroups(7)).
std::string unified_path(pid_t host_pid) {
  const std::string text = read_file(fmt::format("/proc/{}/cgroup", host_pid));
  const std::size_t line = text.starts_with("0::") ? 0 : text.find("\n0::");
  if (line == std::string::npos) return {};
  const std::size_t start = text.find("::", line) + 2;
  return text.substr(start, text.find('\n', start) - start);
}

bool asks_to_freeze(const std::string& directory) {
  const UniqueFd file = try_open_file(directory + "/cgroup.freeze", O_RDONLY);
  return file.valid() && read_all(file.get(), directory).starts_with("1");
}

}  // namespace

bool is_frozen(pid_t host_pid) {
  std::string path = unified_path(host_pid);
  while (path.size() > 1) {
    for (const char* root : {"/sys/fs/cgroup", "/sys/fs/cgroup/unified"}) {
      if (asks_to_freeze(root + path)) return true;
    }
    path.resize(path.rfind('/'));
  }
  return false;
}

}  // namespace godwit
