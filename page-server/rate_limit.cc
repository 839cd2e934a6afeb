#include "page-server/rate_limit.h"

#include <algorithm>
#include <limits>

namespace godwit {

RateLimit::RateLimit(std::uint64_t bytes_per_s_max) : bytes_per_s_max_(bytes_per_s_max) {}

std::int64_t RateLimit::delay_ns(std::uint64_t bytes, std::int64_t now_ns) {
  if (bytes_per_s_max_ == 0) return 0;
  paid_until_ns_ = std::max(paid_until_ns_, now_ns - kBurstNs);
  const std::int64_t wait_ns = std::max<std::int64_t>(paid_until_ns_ - now_ns, 0);
  const double cost_ns = static_cast<double>(bytes) * 1e9 / static_cast<double>(bytes_per_s_max_);
  paid_until_ns_ += static_cast<std::int64_t>(cost_ns);
  return wait_ns;
}

std::uint64_t RateLimit::piece_bytes() const {
  if (bytes_per_s_max_ == 0) return std::numeric_limits<std::uint64_t>::max();
  return std::clamp<std::uint64_t>(bytes_per_s_max_ / 100, 4096, 256 << 10);
}

}  // namespace godwit
