// How far a running round has come, told to the agent a few times a second: an operator watches a
// first round of gigabytes. Of a final round nothing is told; it is over before anyone could read
// it. Belongs to the thread that reads pages.
#pragma once

#include <cstdint>

#include "common/base/page_range.h"
#include "common/wire/page_service_link.h"

namespace godwit {

class RoundProgress {
 public:
  RoundProgress(PageServiceLink& link, std::uint32_t round, bool final);

  // How many pages to read before the next took(); all there are in a final round.
  std::uint64_t step_pages() const { return step_pages_; }
  // `pages` more of those that the scan found have been read; `bytes` were sent so far.
  void took(std::uint64_t pages, std::uint64_t bytes);

 private:
  PageServiceLink& link_;
  std::uint32_t round_;
  std::uint64_t step_pages_;
  std::uint64_t pages_ = 0;
  std::int64_t told_ns_;
};

}  // namespace godwit
