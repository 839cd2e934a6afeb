#include "common/model/post_copy_meter.h"

#include <algorithm>
#include <utility>

namespace godwit {
namespace {

// Rates are those of the last one to two times this.
constexpr std::int64_t kRateOverNs = 1'000'000'000;
constexpr std::int64_t kMeasurableNs = 100'000'000;

}  // namespace

void PostCopyMeter::take(const proto::MissingPages& news, std::int64_t now_ns) {
  if (report_.pages == 0) report_.pages = news.missing_pages();
  report_.missing_pages = news.missing_pages();
  report_.faults = before_.faults + news.faults();
  report_.zero_faults = before_.zero_faults + news.zero_faults();
  report_.fault_bytes = before_.fault_bytes + news.fault_bytes();
  report_.background_bytes = before_.background_bytes + news.background_bytes();
  report_.latencies = before_.latencies;
  for (const proto::LatencyCount& latency : news.latencies()) {
    report_.latencies.add_many(latency.below_ns() - 1, latency.count());
  }
  report_.latencies.limit(std::max(before_.latencies.max_ns(), news.latency_max_ns()));
  report_.latency_p50_ns = report_.latencies.quantile_ns(0.5);
  report_.latency_p99_ns = report_.latencies.quantile_ns(0.99);
  report_.latency_max_ns = report_.latencies.max_ns();
  measure_rates(now_ns);
}

void PostCopyMeter::begin_again() {
  ++report_.reconnects;
  before_ = report_;
  older_ = newer_ = {};
  report_.faults_per_s = 0;
  report_.complete_in_ns = PostCopyReport::kUnknown;
}

void PostCopyMeter::measure_rates(std::int64_t now_ns) {
  const Mark now{now_ns, report_.faults, report_.missing_pages};
  if (older_.ns == 0) older_ = newer_ = now;
  if (now_ns - newer_.ns >= kRateOverNs) older_ = std::exchange(newer_, now);
  const std::int64_t over_ns = now_ns - older_.ns;
  if (over_ns < kMeasurableNs) return;
  report_.faults_per_s = static_cast<std::uint64_t>(
      static_cast<double>(now.faults - std::min(now.faults, older_.faults)) * 1e9 /
      static_cast<double>(over_ns));
  const std::uint64_t came =
      older_.missing_pages - std::min(older_.missing_pages, now.missing_pages);
  report_.complete_in_ns =
      came == 0
          ? PostCopyReport::kUnknown
          : static_cast<std::int64_t>(static_cast<double>(now.missing_pages) *
                                      static_cast<double>(over_ns) / static_cast<double>(came));
}

}  // namespace godwit
