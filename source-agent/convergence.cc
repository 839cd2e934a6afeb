#include "source-agent/convergence.h"

#include <algorithm>

#include "common/base/clock.h"
#include "common/base/page_range.h"

namespace godwit {
namespace {

// A rest this small is not worth a round.
constexpr std::uint64_t kNegligiblePages = 64;
// Another round is worth it while it takes away at least a quarter.
constexpr double kWorthwhileShrink = 0.75;
// Where the rest is close to fitting, chance makes it fit after some more rounds: that is better
// than pages that a running process has to wait for. Far from it, no round helps.
constexpr std::int64_t kFarFromFitting = 4;
constexpr std::size_t kRoundsNearFitting = 12;

}  // namespace

Prediction Convergence::after_round(const RoundReport& round) {
  const std::uint64_t pages = round.pages + round.zero_pages;
  if (round.ns > 0) {
    bandwidth_bytes_per_s_ = std::max(
        bandwidth_bytes_per_s_, static_cast<std::uint64_t>(static_cast<double>(round.bytes) * 1e9 /
                                                           static_cast<double>(round.ns)));
  }
  Prediction out;
  if (rounds_.empty()) {
    rounds_.push_back(round);
    out.rest_pages = pages;
    out.reason = "the first round tells nothing about writes";
    return out;
  }
  const RoundReport& before = rounds_.back();
  const std::uint64_t pages_before = before.pages + before.zero_pages;
  const double dirty_per_ns =
      static_cast<double>(pages) / static_cast<double>(std::max<std::int64_t>(before.ns, 1));
  out.rest_pages = static_cast<std::uint64_t>(dirty_per_ns * static_cast<double>(round.ns));
  const double rest_bytes = static_cast<double>(out.rest_pages * kPageSize);
  const double bandwidth = static_cast<double>(std::max<std::uint64_t>(bandwidth_bytes_per_s_, 1));
  out.downtime_ns = limits_.fixed_cost_ns + static_cast<std::int64_t>(rest_bytes * 1e9 / bandwidth);
  const bool fits =
      out.downtime_ns <= limits_.downtime_ns_max || out.rest_pages <= kNegligiblePages;
  const bool is_first_resend = rounds_.size() == 1;
  const bool shrinks =
      static_cast<double>(pages) < kWorthwhileShrink * static_cast<double>(pages_before);
  const bool last_round = static_cast<int>(rounds_.size()) + 1 >= limits_.rounds_max;
  const bool hopeless = out.downtime_ns > kFarFromFitting * limits_.downtime_ns_max ||
                        rounds_.size() >= kRoundsNearFitting;
  rounds_.push_back(round);
  if (fits && (out.rest_pages <= kNegligiblePages || last_round || !(shrinks || is_first_resend))) {
    out.decision = PrecopyDecision::kSwitch;
    out.reason = "the rest fits into the wanted downtime";
  } else if (limits_.may_leave_pages && (last_round || (!shrinks && hopeless))) {
    out.decision = PrecopyDecision::kSwitchLazily;
    out.reason =
        fmt::format("another round does not pay: {} pages are dirtied meanwhile, {:.1f} ms to send",
                    out.rest_pages, to_ms(out.downtime_ns));
  } else if (last_round) {
    out.decision = PrecopyDecision::kGiveUp;
    out.reason =
        fmt::format("after {} rounds {} pages are still dirtied a round, {:.1f} ms to send",
                    rounds_.size(), out.rest_pages, to_ms(out.downtime_ns));
  } else {
    out.reason = fits ? "another round makes the rest smaller" : "the rest does not fit yet";
  }
  return out;
}

}  // namespace godwit
