// When to stop pre-copying.
//
// After every round the rest is predicted: what the task dirties while the round is on its way, at
// the rate measured in that round. The switch comes when the rest, sent at the measured bandwidth,
// fits into the wanted downtime beside the fixed cost, and another round would not make it much
// smaller. A dirty set that never fits either stays at the source for post-copy, as soon as rounds
// do not make it smaller, or is told, not forced: the operator chooses (--mode).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "common/model/report.h"

namespace godwit {

struct ConvergenceLimits {
  std::int64_t downtime_ns_max = 10'000'000;
  int rounds_max = 30;
  bool may_leave_pages = false;  // hybrid
  // Freezing, describing, reconciling, confirming: all but the pages.
  std::int64_t fixed_cost_ns = 3'000'000;
};

enum class PrecopyDecision { kAnotherRound, kSwitch, kSwitchLazily, kGiveUp };

struct Prediction {
  PrecopyDecision decision = PrecopyDecision::kAnotherRound;
  std::uint64_t rest_pages = 0;
  std::int64_t downtime_ns = 0;
  std::string reason;
};

class Convergence {
 public:
  explicit Convergence(const ConvergenceLimits& limits) : limits_(limits) {}

  // Takes the round that has just been placed; its ns is from one scan to the next.
  Prediction after_round(const RoundReport& round);

 private:
  ConvergenceLimits limits_;
  std::vector<RoundReport> rounds_;
  std::uint64_t bandwidth_bytes_per_s_ = 0;  // best measured: small rounds measure latency only
};

}  // namespace godwit
