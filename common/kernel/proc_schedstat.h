// How often and how long a thread has run: /proc/PID/task/TID/schedstat (CONFIG_SCHED_INFO), and
// how often it went to sleep: voluntary_ctxt_switches of its status (proc_pid_status(5)).
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string_view>

#include "common/base/unique_fd.h"

namespace godwit {

struct RunCount {
  std::int64_t ran_ns = 0;   // on a processor, to its last switch
  std::uint64_t slices = 0;  // how often it got a processor: exact
};

// "799496 38757 3": nanoseconds on a processor, nanoseconds of waiting for one, slices. Nothing
// where the kernel does not count, which shows as zeros.
std::optional<RunCount> parse_schedstat(std::string_view text);

// The files of one thread, held open. Any thread.
class RunCounter {
 public:
  // Reads nothing where there is no such file, no descriptor is left or the thread is gone.
  RunCounter(pid_t host_pid, pid_t host_tid);
  std::optional<RunCount> read() const;         // 2 us
  std::optional<std::uint64_t> sleeps() const;  // stops included; 10 us

 private:
  UniqueFd schedstat_;
  UniqueFd status_;
};

}  // namespace godwit
