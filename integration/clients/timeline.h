// Samples of a load, one per reply, and the figures made of them at the end.
#pragma once

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <deque>
#include <iterator>
#include <map>
#include <string>
#include <vector>

namespace godwit::client {

struct Sample {
  int64_t end_ns;       // CLOCK_MONOTONIC, when the reply was there
  uint32_t latency_ns;  // command to reply
  uint32_t gap_ns;      // reply before to this reply; 0 where the client makes pauses
};

inline uint32_t saturated_ns(int64_t ns) {
  return static_cast<uint32_t>(std::clamp<int64_t>(ns, 0, UINT32_MAX));
}

// A deque never moves what it has: recording costs no pause. Owned by one thread until the end.
using Samples = std::deque<Sample>;

// One line for each reply: "client,sent_unix_ns,latency_ns". `unix_ns` is what CLOCK_REALTIME is
// ahead of CLOCK_MONOTONIC.
inline void append_csv(std::string& out, size_t client, const Samples& samples, int64_t unix_ns) {
  for (const Sample& sample : samples) {
    fmt::format_to(std::back_inserter(out), "{},{},{}\n", client,
                   sample.end_ns - sample.latency_ns + unix_ns, sample.latency_ns);
  }
}

inline double percentile_ms(std::vector<uint32_t>& values_ns, double share) {
  if (values_ns.empty()) return 0;
  const auto at =
      values_ns.begin() + static_cast<ptrdiff_t>(share * static_cast<double>(values_ns.size() - 1));
  std::nth_element(values_ns.begin(), at, values_ns.end());
  return *at / 1e6;
}

class Timeline {
 public:
  static constexpr int64_t kBucketMs = 10;
  static constexpr int kBinsPerOctave = 8;

  Timeline(int64_t start_ns, int64_t start_unix_ns, int64_t end_ns)
      : start_ns_(start_ns),
        start_unix_ns_(start_unix_ns),
        buckets_(static_cast<size_t>((end_ns - start_ns) / (kBucketMs * 1'000'000) + 1)) {}

  void add(const Samples& samples) {
    for (const Sample& sample : samples) {
      Bucket& last = buckets_[index_of(sample.end_ns)];
      ++last.operations;
      ++last.latency_bins[bin_of(sample.latency_ns)];
      spread(sample.end_ns, sample.latency_ns, &Bucket::latency_max_ns);
      spread(sample.end_ns, sample.gap_ns, &Bucket::gap_max_ns);
    }
  }

  std::string json() const {
    std::string out =
        fmt::format("{{\"start_unix_ns\":{},\"bucket_ms\":{},\"bins_per_octave\":{},\"ops\":[",
                    start_unix_ns_, kBucketMs, kBinsPerOctave);
    append(out, [](const Bucket& bucket) { return bucket.operations; });
    out += "],\"gap_max_ns\":[";
    append(out, [](const Bucket& bucket) { return bucket.gap_max_ns; });
    out += "],\"latency_max_ns\":[";
    append(out, [](const Bucket& bucket) { return bucket.latency_max_ns; });
    out += "],\"latency_bins\":[";
    append(out, [](const Bucket& bucket) {
      std::string pairs = "[";
      for (const auto& [bin, count] : bucket.latency_bins) {
        fmt::format_to(std::back_inserter(pairs), "{}[{},{}]", pairs.size() > 1 ? "," : "", bin,
                       count);
      }
      return pairs + "]";
    });
    return out + "]}";
  }

 private:
  struct Bucket {
    uint32_t operations = 0;
    uint32_t gap_max_ns = 0;
    uint32_t latency_max_ns = 0;
    std::map<int, uint32_t> latency_bins;
  };

  size_t index_of(int64_t at_ns) const {
    const int64_t index = (at_ns - start_ns_) / (kBucketMs * 1'000'000);
    return static_cast<size_t>(
        std::clamp<int64_t>(index, 0, static_cast<int64_t>(buckets_.size()) - 1));
  }

  static int bin_of(uint32_t ns) {
    return static_cast<int>(std::log2(std::max<double>(ns, 1)) * kBinsPerOctave);
  }

  // A wait counts in every bucket that it touches.
  void spread(int64_t end_ns, uint32_t length_ns, uint32_t Bucket::*field) {
    for (size_t i = index_of(end_ns - length_ns), end = index_of(end_ns); i <= end; ++i) {
      buckets_[i].*field = std::max(buckets_[i].*field, length_ns);
    }
  }

  template <typename Value>
  void append(std::string& out, Value value) const {
    for (size_t i = 0; i < buckets_.size(); ++i) {
      fmt::format_to(std::back_inserter(out), "{}{}", i == 0 ? "" : ",", value(buckets_[i]));
    }
  }

  int64_t start_ns_;
  int64_t start_unix_ns_;
  std::vector<Bucket> buckets_;
};

}  // namespace godwit::client
