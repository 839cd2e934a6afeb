// LazyMemory for those whose source is gone: what is missing, and giving it up.
#include <time.h>

#include <algorithm>
#include <cerrno>

#include "common/kernel/userfaultfd.h"
#include "page-server/lazy_memory.h"

namespace godwit {
namespace {

constexpr timespec kLayoutPause{0, 20'000};

}  // namespace

std::vector<LazyMemory::Missing> LazyMemory::name_missing() const {
  std::vector<Missing> all;
  for (const auto& space : spaces_) {
    if (space->gone || space->missing.empty()) continue;
    Missing& missing = all.emplace_back();
    missing.space = space->index;
    space->missing.for_each_run([&](const PageRange& run) { missing.ranges.push_back(run); });
    for (const auto& [thread, page] : space->touched) {
      if (thread != 0 && space->missing.contains(page)) missing.waiting.emplace_back(thread, page);
    }
  }
  return all;
}

LazyMemory::Poisoned LazyMemory::poison() {
  Poisoned all;
  serve();
  // What a child that is forked meanwhile misses is seen with its own descriptor.
  for (std::size_t at = 0; at < spaces_.size(); ++at) {
    Space& space = *spaces_[at];
    while (!space.gone && !space.missing.empty()) {
      std::vector<PageRange> runs;
      space.missing.for_each_run([&](const PageRange& run) { runs.push_back(run); });
      for (const PageRange& run : runs) {
        const Poisoned one = poison(space, run);
        all.pages += one.pages;
        if (one.code == EAGAIN) break;  // the layout was changed: other pages are missing now
        if (one.code != 0) return {all.pages, one.code};
      }
    }
  }
  return all;
}

LazyMemory::Poisoned LazyMemory::poison(Space& space, PageRange range) {
  Poisoned all;
  std::uint64_t step = range.bytes();
  while (range.start < range.end && !space.gone) {
    const PageRange part{range.start, std::min(range.end, range.start + step)};
    CopyOutcome outcome = userfaultfd_poison(space.uffd.get(), part);
    if (outcome.bytes == 0) {
      switch (outcome.code) {
        case EAGAIN:
          ::clock_nanosleep(CLOCK_MONOTONIC, 0, &kLayoutPause, nullptr);
          serve(space);
          return {all.pages, EAGAIN};
        case ESRCH:
        case ENOSPC:
          end(space);
          return all;
        case ENOENT:
        case EEXIST:
          if (step > kPageSize) {
            step = kPageSize;  // a part of it may be there, or no mapping any more
            continue;
          }
          userfaultfd_wake(space.uffd.get(), part);
          outcome.bytes = kPageSize;
          break;
        default:
          return {all.pages, outcome.code};
      }
    } else {
      all.pages += outcome.bytes / kPageSize;
    }
    const PageRange done{part.start, part.start + outcome.bytes};
    space.missing.clear(done);
    note(LedgerRecord::Kind::kThere, space, done);
    range.start = done.end;
  }
  return all;
}

void LazyMemory::notice_ended() {
  constexpr PageRange kAll{0, ~0ULL / kPageSize * kPageSize};
  for (const auto& space : spaces_) {
    if (space->gone) continue;
    const auto page = space->missing.find_first(kAll);
    if (page && is_space_gone(space->uffd.get(), *page)) end(*space);
  }
}

}  // namespace godwit
