// How long something took, many times: counts in buckets of which none is more than
// a quarter longer than the one before, so a quantile is right to within that.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>

namespace godwit {

// Nanoseconds. Thread: one at a time.
class LatencyHistogram {
 public:
  void add(std::int64_t ns) { add_many(ns, 1); }
  void add_many(std::int64_t ns, std::uint64_t times) {
    counts_[bucket_of(ns)] += times;
    count_ += times;
    max_ns_ = std::max(max_ns_, ns);
  }
  // The longest was this one, as somebody knows who has not only counts.
  void limit(std::int64_t max_ns) { max_ns_ = max_ns; }
  // For each bucket that has any: sink(below_ns, count), the shortest first.
  template <typename Sink>
  void for_each_count(Sink sink) const {
    for (std::size_t bucket = 0; bucket < counts_.size(); ++bucket) {
      if (counts_[bucket] > 0) sink(end_of(bucket), counts_[bucket]);
    }
  }
  std::uint64_t count() const { return count_; }
  std::int64_t max_ns() const { return max_ns_; }
  // The bucket's upper end, at most max_ns(); 0 when nothing was added. `share` is from 0 to 1.
  std::int64_t quantile_ns(double share) const {
    const auto wanted = static_cast<std::uint64_t>(share * static_cast<double>(count_));
    std::uint64_t seen = 0;
    for (std::size_t bucket = 0; bucket < counts_.size(); ++bucket) {
      seen += counts_[bucket];
      if (seen > wanted) return std::min(max_ns_, end_of(bucket));
    }
    return max_ns_;
  }

 private:
  // Four to each power of two.
  static constexpr std::size_t kParts = 4;
  static constexpr std::size_t kBuckets = 64 * kParts;

  static std::size_t bucket_of(std::int64_t ns) {
    const auto value = static_cast<std::uint64_t>(std::max<std::int64_t>(ns, kParts));
    const auto power = static_cast<std::size_t>(std::bit_width(value)) - 1;
    return power * kParts + (value >> (power - 2)) % kParts;
  }
  static std::int64_t end_of(std::size_t bucket) {
    const std::size_t power = bucket / kParts;
    const std::uint64_t end = std::uint64_t{bucket % kParts + kParts + 1} << (power - 2);
    return static_cast<std::int64_t>(std::min<std::uint64_t>(end, INT64_MAX));
  }

  std::array<std::uint64_t, kBuckets> counts_{};
  std::uint64_t count_ = 0;
  std::int64_t max_ns_ = 0;
};

}  // namespace godwit
