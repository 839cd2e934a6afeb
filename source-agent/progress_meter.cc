#include "source-agent/progress_meter.h"

#include <algorithm>

#include "common/base/page_range.h"

namespace godwit {
namespace {

constexpr double kNsPerS = 1e9;
// A shorter part of a round measures how long it takes to begin.
constexpr std::int64_t kMeasurableNs = 100'000'000;
constexpr int kRoundsAhead = 200;
// Rounds that shrink more slowly do not come to an end that one could wait for.
constexpr double kSlowestShrink = 0.97;

double ns_to_send(double pages, std::uint64_t bandwidth_bytes_per_s) {
  return pages * kPageSize * kNsPerS / static_cast<double>(bandwidth_bytes_per_s);
}

}  // namespace

SwitchEstimate estimate_switch(const RoundOutlook& outlook, const ConvergenceLimits& limits) {
  using Kind = SwitchEstimate::Kind;
  if (outlook.bandwidth_bytes_per_s == 0) return {};
  double total_ns =
      ns_to_send(static_cast<double>(outlook.pages_left), outlook.bandwidth_bytes_per_s);
  if (!outlook.dirty_pages_per_s) return {Kind::kAtLeast, static_cast<std::int64_t>(total_ns)};
  double round_ns = total_ns + static_cast<double>(outlook.elapsed_ns);
  for (int ahead = 0; ahead < kRoundsAhead; ++ahead) {
    const double rest_pages = static_cast<double>(*outlook.dirty_pages_per_s) * round_ns / kNsPerS;
    const double rest_ns = ns_to_send(rest_pages, outlook.bandwidth_bytes_per_s);
    if (rest_ns + static_cast<double>(limits.fixed_cost_ns) <=
        static_cast<double>(limits.downtime_ns_max)) {
      return {Kind::kAbout, static_cast<std::int64_t>(total_ns)};
    }
    if (rest_ns > kSlowestShrink * round_ns) break;
    total_ns += rest_ns;
    round_ns = rest_ns;
  }
  return {Kind::kNever, 0};
}

ProgressMeter::ProgressMeter(pid_t pid, std::string destination, const ConvergenceLimits& limits,
                             std::int64_t now_ns)
    : limits_(limits), began_ns_(now_ns) {
  facts_.pid = pid;
  facts_.destination = std::move(destination);
  facts_.pause_ns_max = limits.downtime_ns_max;
}

void ProgressMeter::begin_round(std::uint32_t round, std::int64_t now_ns) {
  facts_.round = round;
  facts_.round_pages.reset();
  facts_.pages_left = 0;
  round_began_ns_ = now_ns;
  in_round_ = true;
}

void ProgressMeter::scanned(std::uint32_t round, std::uint64_t pages) {
  if (round != facts_.round || !in_round_ || facts_.round_pages) return;
  facts_.round_pages = pages;
  facts_.pages_left = pages;
  if (last_round_ns_ > 0) {
    facts_.dirty_pages_per_s = static_cast<std::uint64_t>(static_cast<double>(pages) * kNsPerS /
                                                          static_cast<double>(last_round_ns_));
  }
}

void ProgressMeter::sent(std::uint32_t round, std::uint64_t pages, std::uint64_t bytes,
                         std::int64_t now_ns) {
  if (round != facts_.round || !in_round_) return;
  const std::uint64_t all = facts_.round_pages.value_or(pages);
  facts_.pages_left = all - std::min(all, pages);
  const std::int64_t elapsed_ns = now_ns - round_began_ns_;
  if (elapsed_ns < kMeasurableNs) return;
  facts_.bandwidth_bytes_per_s = static_cast<std::uint64_t>(static_cast<double>(bytes) * kNsPerS /
                                                            static_cast<double>(elapsed_ns));
}

void ProgressMeter::end_round(const RoundReport& round, const Prediction& prediction) {
  in_round_ = false;
  facts_.pages_left = 0;
  last_round_ns_ = round.ns;
  // A round of few bytes measures the way there and back.
  if (round.ns >= kMeasurableNs || !facts_.bandwidth_bytes_per_s) {
    facts_.bandwidth_bytes_per_s = round.bandwidth_bytes_per_s;
  }
  if (prediction.downtime_ns > 0) facts_.pause_ns = prediction.downtime_ns;
}

void ProgressMeter::serve(const PostCopyReport& report) {
  facts_.post_copy = report;
  facts_.complete_in_ns.reset();
  if (report.complete_in_ns != PostCopyReport::kUnknown) {
    facts_.complete_in_ns = report.complete_in_ns;
  }
}

ProgressFacts ProgressMeter::facts(State state, bool switching, std::int64_t now_ns) const {
  ProgressFacts facts = facts_;
  facts.state = state;
  facts.switching = switching;
  facts.elapsed_ns = now_ns - began_ns_;
  const bool known = facts.round_pages && facts.bandwidth_bytes_per_s;
  if (state == State::kPreCopy && in_round_ && known) {
    facts.switch_in = estimate_switch({facts.pages_left, now_ns - round_began_ns_,
                                       facts.dirty_pages_per_s, *facts.bandwidth_bytes_per_s},
                                      limits_);
  }
  return facts;
}

}  // namespace godwit
