#include "dest-agent/restore/huge_pages.h"

#include "common/base/error.h"
#include "common/base/log.h"
#include "common/kernel/huge_pages.h"
#include "common/kernel/pidfd.h"

namespace godwit {

void WishedHugePages::take(const proto::Process& process) {
  for (const proto::HugePages& pages : process.huge_pages()) {
    const auto range = PageRange::make(pages.start(), pages.end());
    if (!range) fail("huge pages {:x}-{:x}: no range of pages", pages.start(), pages.end());
    ranges_.push_back(*range);
  }
}

void WishedHugePages::grant(const ProcessMark& process) const noexcept {
  if (ranges_.empty() || huge_pages_are_off()) return;
  try {
    const UniqueFd pidfd = open_pidfd(process.pid);
    // Another move of it may begin meanwhile: it is stopped then, and this goes on unharmed.
    const std::size_t count =
        collapse_huge_pages(pidfd.get(), ranges_, [&] { return is_alive(process); });
    log_info("pid={} has {} huge pages again", process.pid, count);
  } catch (const std::exception& error) {
    log_info("pid={} making huge pages: {}", process.pid, error.what());
  }
}

}  // namespace godwit
