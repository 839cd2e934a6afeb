#include "page-server/round_progress.h"

#include <limits>

#include "common/base/clock.h"

namespace godwit {
namespace {

constexpr std::uint64_t kStepPages = 1024;
constexpr std::int64_t kEveryNs = 150'000'000;

}  // namespace

RoundProgress::RoundProgress(PageServiceLink& link, std::uint32_t round, bool final)
    : link_(link),
      round_(round),
      step_pages_(final ? std::numeric_limits<std::uint64_t>::max() / kPageSize : kStepPages),
      told_ns_(final ? 0 : monotonic_ns()) {}

void RoundProgress::took(std::uint64_t pages, std::uint64_t bytes) {
  pages_ += pages;
  if (step_pages_ != kStepPages) return;
  const std::int64_t now_ns = monotonic_ns();
  if (now_ns - told_ns_ < kEveryNs) return;
  told_ns_ = now_ns;
  proto::PageReport report;
  proto::RoundProgress& progress = *report.mutable_round_progress();
  progress.set_round(round_);
  progress.set_pages(pages_);
  progress.set_bytes(bytes);
  link_.send(report);
}

}  // namespace godwit
