#include "dest-agent/clocks.h"

#include <unistd.h>

#include <cstdint>
#include <limits>

#include "common/base/clock.h"
#include "common/base/error.h"

namespace godwit {
namespace {

constexpr std::uint32_t kProbes = 12;
constexpr std::int64_t kAnswerTimeoutNs = 5'000'000'000;

}  // namespace

TimeOffsets measure_clocks(Channel& control) {
  const TimeOffsets own = read_time_offsets(::getpid());
  TimeOffsets best;
  std::int64_t best_round_trip_ns = std::numeric_limits<std::int64_t>::max();
  for (std::uint32_t number = 0; number < kProbes; ++number) {
    proto::ClockProbe probe;
    probe.set_number(number);
    const std::int64_t asked = monotonic_ns();
    control.send_body(probe, asked + kAnswerTimeoutNs);
    const auto reading = control.receive_body<proto::ClockReading>(asked + kAnswerTimeoutNs);
    const std::int64_t answered = monotonic_ns();
    const std::int64_t answered_boottime = clock_ns(CLOCK_BOOTTIME);
    if (reading.number() != number)
      fail("clock reading {} instead of {}", reading.number(), number);
    const std::int64_t round_trip_ns = answered - asked;
    if (round_trip_ns >= best_round_trip_ns) continue;
    best_round_trip_ns = round_trip_ns;
    // The source read its clock at some time within the round trip; the latest it can show now is:
    best.monotonic_ns = reading.monotonic_ns() + round_trip_ns - (answered - own.monotonic_ns);
    best.boottime_ns =
        reading.boottime_ns() + round_trip_ns - (answered_boottime - own.boottime_ns);
  }
  return best;
}

}  // namespace godwit
