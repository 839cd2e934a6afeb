// /proc/PID/status and /proc/PID/task/TID/status (proc_pid_status(5)).
//
// Ids are as the reader's procfs shows them, except the namespace lists, whose last entry is the
// number that the task itself sees. Fields that an older kernel lacks keep their default.
#pragma once

#include <sys/types.h>

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace godwit {

struct ProcStatus {
  std::string name;
  char state = '?';  // R S D T t Z X I
  std::uint32_t umask = 0;
  pid_t tgid = 0;
  pid_t pid = 0;
  pid_t parent = 0;
  pid_t tracer = 0;
  std::array<std::uint32_t, 4> uids{};  // real, effective, saved, filesystem
  std::array<std::uint32_t, 4> gids{};
  std::vector<std::uint32_t> groups;
  std::vector<pid_t> namespace_pids;  // from the reader's namespace to the task's own
  std::vector<pid_t> namespace_groups;
  std::vector<pid_t> namespace_sessions;
  bool kernel_thread = false;
  std::uint64_t pending_private = 0;  // bit n-1 is signal n
  std::uint64_t pending_shared = 0;
  std::uint64_t signals_blocked = 0;
  std::uint64_t signals_ignored = 0;
  std::uint64_t signals_caught = 0;
  std::uint64_t capabilities_inheritable = 0;
  std::uint64_t capabilities_permitted = 0;
  std::uint64_t capabilities_effective = 0;
  std::uint64_t capabilities_bounding = 0;
  std::uint64_t capabilities_ambient = 0;
  bool no_new_privileges = false;
  std::uint32_t seccomp_mode = 0;
  std::uint64_t voluntary_switches = 0;
  std::uint64_t involuntary_switches = 0;

  // The id that the task itself sees.
  pid_t inner_pid() const { return namespace_pids.empty() ? pid : namespace_pids.back(); }
};

// Throws Error when a field does not read as proc_pid_status(5) says.
ProcStatus parse_proc_status(std::string_view text);
// `directory` is "/proc/12" or "/proc/12/task/13". Throws Error naming it (ENOENT, ESRCH: gone).
ProcStatus read_proc_status(const std::string& directory);
ProcStatus read_proc_status(pid_t pid);
// Nothing when the task is gone.
std::optional<ProcStatus> try_read_proc_status(const std::string& directory);

// The threads of a process, by the reader's ids, the leader first. Throws Error when it is gone.
std::vector<pid_t> list_threads(pid_t pid);

}  // namespace godwit
