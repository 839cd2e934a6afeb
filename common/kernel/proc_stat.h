// /proc/PID/stat (proc_pid_stat(5)): the fields that status does not have.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <string_view>

namespace godwit {

struct ProcStat {
  std::string comm;
  char state = '?';
  pid_t parent = 0;
  pid_t group = 0;
  pid_t session = 0;
  int terminal = 0;                    // device number, 0: none
  std::uint32_t flags = 0;             // PF_* of the kernel
  std::uint64_t start_time_ticks = 0;  // after boot; tells a reused pid
  int processor = -1;                  // where it last ran

  bool kernel_thread() const { return (flags & 0x00200000) != 0; }
  // On its way out (PF_EXITING): it may have given up its memory, descriptors and directory.
  bool ending() const { return (flags & 0x00000004) != 0; }
};

// Throws Error when the text is not a stat line. The name may hold anything, ") " included.
ProcStat parse_proc_stat(std::string_view text);
// `directory` is "/proc/12" or "/proc/12/task/13". Throws Error naming it (ENOENT, ESRCH: gone).
ProcStat read_proc_stat(const std::string& directory);
ProcStat read_proc_stat(pid_t pid);
// True for a task that is ending or gone.
bool is_ending(pid_t tid);

}  // namespace godwit
