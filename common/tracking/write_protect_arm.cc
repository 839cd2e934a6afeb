#include "common/tracking/write_protect_arm.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>

#include "common/base/clock.h"
#include "common/base/error.h"
#include "common/kernel/pagemap.h"
#include "common/kernel/userfaultfd.h"

namespace godwit {

void enable_write_protect_tracking(int uffd) {
  userfaultfd_enable(uffd, kUffdWriteProtectAsync | kUffdWriteProtectUnpopulated);
}

std::vector<UnarmedRange> arm_write_protect(int uffd, std::span<const PageRange> ranges) {
  std::vector<UnarmedRange> unarmed;
  for (const PageRange& range : ranges) {
    const int code = try_userfaultfd_register(uffd, range, UFFDIO_REGISTER_MODE_WP);
    if (code != 0) unarmed.push_back({range, code});
  }
  return unarmed;
}

void disarm_write_protect(int uffd, std::span<const PageRange> ranges) {
  constexpr std::uint64_t kStepBytes = 16 << 20;
  constexpr std::uint64_t kReservedBytes = 1ULL << 40;  // nobody has so much memory in one mapping
  constexpr std::int64_t kShortNs = 100'000;
  constexpr useconds_t kPauseUs = 200;
  for (const PageRange& range : ranges) {
    if (range.bytes() > kReservedBytes) continue;
    for (Address at = range.start; at < range.end;) {
      const PageRange step{at, at + std::min(range.end - at, kStepBytes)};
      at = step.end;
      const std::int64_t began_ns = monotonic_ns();
      try_userfaultfd_unregister(uffd, step);
      if (monotonic_ns() - began_ns > kShortNs) ::usleep(kPauseUs);
    }
  }
}

void forget_old_protection(int uffd, int pagemap_fd, std::span<const PageRange> ranges,
                           bool blocking) {
  pagemap::Query query;
  query.inverted = pagemap::kWritten;
  query.all = pagemap::kWritten;
  if (!blocking) query.all |= pagemap::kWriteProtectable;
  query.any = pagemap::kPresent | pagemap::kSwapped;
  query.reported = pagemap::kPresent;
  std::array<pagemap::Region, 256> buffer;
  for (const PageRange& range : ranges) {
    pagemap::scan(pagemap_fd, range, query, buffer, [&](const pagemap::Region& region) {
      const PageRange old{region.start, region.end};
      int code = 0;
      while ((code = try_userfaultfd_unprotect(uffd, old)) == EAGAIN) sched_yield();
      // ENOENT: unmapped or moved meanwhile, and so without registration, which the next scan
      // tells.
      if (code != 0 && code != ENOENT) {
        throw_errno(code,
                    fmt::format("take the old write protection off {:x}-{:x}", old.start, old.end));
      }
    });
  }
}

}  // namespace godwit
