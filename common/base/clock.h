// Clocks in nanoseconds.
#pragma once

#include <cstdint>
#include <ctime>

namespace godwit {

inline std::int64_t clock_ns(clockid_t clock) {
  timespec now{};
  clock_gettime(clock, &now);
  return now.tv_sec * 1'000'000'000LL + now.tv_nsec;
}
inline std::int64_t monotonic_ns() { return clock_ns(CLOCK_MONOTONIC); }
inline double to_ms(std::int64_t ns) { return static_cast<double>(ns) / 1e6; }

}  // namespace godwit
