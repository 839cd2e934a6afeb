// /proc/PID/limits (proc_pid_limits(5)): readable where prlimit(2) on the task is refused.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string_view>
#include <vector>

namespace godwit {

struct ProcLimit {
  int resource = 0;        // RLIMIT_*
  std::uint64_t soft = 0;  // RLIM_INFINITY: unlimited
  std::uint64_t hard = 0;
  friend bool operator==(const ProcLimit&, const ProcLimit&) = default;
};

// In the order of the file. Throws Error on a line that is no limit; a limit that is new to this
// program is left out.
std::vector<ProcLimit> parse_proc_limits(std::string_view text);
std::vector<ProcLimit> read_proc_limits(pid_t pid);

// "open files" for RLIMIT_NOFILE: as the file itself names it.
std::string_view limit_name(int resource);

}  // namespace godwit
