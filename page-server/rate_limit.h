// A token bucket: bytes may go out at a rate, with a short burst that lets the few pages of a final
// round pass at once after a pause.
#pragma once

#include <cstdint>

namespace godwit {

class RateLimit {
 public:
  // 0: unlimited.
  explicit RateLimit(std::uint64_t bytes_per_s_max);

  // How many nanoseconds to wait before sending `bytes` at `now_ns` (monotonic); counts them as
  // sent.
  std::int64_t delay_ns(std::uint64_t bytes, std::int64_t now_ns);
  // What should be sent in one piece, so that the waits in between stay short.
  std::uint64_t piece_bytes() const;

 private:
  static constexpr std::int64_t kBurstNs = 50'000'000;

  std::uint64_t bytes_per_s_max_;
  std::int64_t paid_until_ns_ = 0;  // when the bytes sent so far are due
};

}  // namespace godwit
