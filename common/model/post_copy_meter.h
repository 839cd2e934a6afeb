// What a page server says of missing pages, as one story: also when others went on for it, which
// count from zero. Pure: clocks come in as arguments (nanoseconds, CLOCK_MONOTONIC).
#pragma once

#include <cstdint>

#include "common/model/report.h"
#include "proto/page_service.pb.h"

namespace godwit {

class PostCopyMeter {
 public:
  // `pages` were missing at the switch, 0: the first news tell.
  explicit PostCopyMeter(std::uint64_t pages = 0) {
    report_.pages = pages;
    report_.missing_pages = pages;
  }

  // Goes on where somebody else has stopped.
  explicit PostCopyMeter(const PostCopyReport& so_far) : report_(so_far) {}

  void take(const proto::MissingPages& news, std::int64_t now_ns);
  // Another page server goes on.
  void begin_again();

  const PostCopyReport& report() const { return report_; }

 private:
  void measure_rates(std::int64_t now_ns);

  PostCopyReport report_;
  PostCopyReport before_;  // counted by page servers that are gone
  // Where the rates are measured from.
  struct Mark {
    std::int64_t ns = 0;
    std::uint64_t faults = 0;
    std::uint64_t missing_pages = 0;
  };
  Mark older_;
  Mark newer_;
};

}  // namespace godwit
