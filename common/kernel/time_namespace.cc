#include "common/kernel/time_namespace.h"

#include <sched.h>
#include <time.h>

#include <sstream>
#include <string>

#include "common/base/clock.h"
#include "common/base/error.h"
#include "common/base/unique_fd.h"

namespace godwit {
namespace {

constexpr std::int64_t kNsPerS = 1'000'000'000;

// The kernel wants 0 <= nanoseconds < 1e9, also for negative offsets.
std::string offset_line(const char* clock, std::int64_t ns) {
  std::int64_t seconds = ns / kNsPerS;
  std::int64_t rest = ns % kNsPerS;
  if (rest < 0) {
    rest += kNsPerS;
    --seconds;
  }
  return fmt::format("{} {} {}\n", clock, seconds, rest);
}

}  // namespace

TimeOffsets read_time_offsets(pid_t pid) {
  TimeOffsets offsets;
  const std::string path = fmt::format("/proc/{}/timens_offsets", pid);
  const UniqueFd file = try_open_file(path, O_RDONLY);
  if (!file.valid()) {
    if (errno == ENOENT) return offsets;
    throw_system("open {}", path);
  }
  std::istringstream text(read_all(file.get(), path));
  std::string clock;
  std::int64_t seconds = 0;
  std::int64_t ns = 0;
  while (text >> clock >> seconds >> ns) {
    (clock == "monotonic" ? offsets.monotonic_ns : offsets.boottime_ns) = seconds * kNsPerS + ns;
  }
  return offsets;
}

void enter_time_namespace_for_children(const TimeOffsets& offsets) {
  if (::unshare(CLONE_NEWTIME) != 0) throw_system("new time namespace");
  write_file("/proc/self/timens_offsets", offset_line("monotonic", offsets.monotonic_ns) +
                                              offset_line("boottime", offsets.boottime_ns));
}

void leave_time_namespace_for_children() {
  const UniqueFd own = open_file("/proc/self/ns/time", O_RDONLY);
  if (::setns(own.get(), CLONE_NEWTIME) != 0) throw_system("back to the own time namespace");
}

bool is_steady_clock(int clock) {
  return clock == CLOCK_MONOTONIC || clock == CLOCK_BOOTTIME || clock == CLOCK_BOOTTIME_ALARM;
}

std::int64_t clock_with_offsets(int clock, const TimeOffsets& offsets) {
  if (clock == CLOCK_MONOTONIC) return clock_ns(CLOCK_MONOTONIC) + offsets.monotonic_ns;
  if (is_steady_clock(clock)) return clock_ns(CLOCK_BOOTTIME) + offsets.boottime_ns;
  return clock_ns(CLOCK_REALTIME);
}

}  // namespace godwit
