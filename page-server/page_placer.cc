#include "page-server/page_placer.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>

#include "common/base/error.h"
#include "common/kernel/userfaultfd.h"
#include "page-server/areas.h"

namespace godwit {
namespace {

constexpr std::array<std::byte, 64 << 10> kZeros{};

}  // namespace

PagePlacer::PagePlacer(UniqueFd memory, UniqueFd uffd)
    : memory_(std::move(memory)), uffd_(std::move(uffd)) {}

void PagePlacer::set_areas(const proto::SetAreas& order) {
  if (order.generation() < generation_) {
    fail("areas of generation {} after those of {}", order.generation(), generation_);
  }
  generation_ = order.generation();
  if (order.same()) {
    for (TrackedArea& area : areas_) area.fresh = false;
    return;
  }
  areas_ = areas_of(order);
  forget_lost_pages(areas_, filled_);
  for (const TrackedArea& area : areas_) {
    if (area.fresh) renewals_.push_back({area.range, generation_});
  }
}

void PagePlacer::place(const PageFrame& frame) {
  // Frames come in order, so what this one is too new for concerns none of those that follow.
  std::erase_if(renewals_,
                [&](const Renewal& renewal) { return renewal.generation <= frame.generation(); });
  frame.for_each_run([&](const PageFrame::Run& run) { place_run(run, frame.generation()); });
}

std::vector<PageRange> PagePlacer::placed_of(const PageBitmap& pages) const {
  std::vector<PageRange> placed;
  pages.for_each_run([&](const PageRange& run) {
    filled_.for_each_run(run, [&](const PageRange& there) { placed.push_back(there); });
  });
  return placed;
}

std::vector<PageRange> PagePlacer::take_out(const PageBitmap& pages) {
  std::vector<PageRange> placed = placed_of(pages);
  for (const PageRange& range : placed) filled_.clear(range);
  return placed;
}

bool PagePlacer::is_outdated(const PageRange& range, std::uint64_t generation) const {
  return std::any_of(renewals_.begin(), renewals_.end(), [&](const Renewal& renewal) {
    return renewal.generation > generation && renewal.range.overlaps(range);
  });
}

const TrackedArea& PagePlacer::area_for(Address address, const PageRange& range) const {
  const TrackedArea* area = find_area(areas_, address);
  if (area == nullptr) {
    fail("pages {:x}-{:x} came for no area of generation {}", address, range.end, generation_);
  }
  return *area;
}

void PagePlacer::place_once(const PageRange& range, const std::byte* data) const {
  for (Address at = range.start; at < range.end;) {
    const TrackedArea& area = area_for(at, range);
    const PageRange part{at, std::min(range.end, area.range.end)};
    const bool of_file = area.kind == AreaKind::kPrivateFile;
    if (data == nullptr) {
      if (of_file) overwrite_zero(part);
    } else {
      const std::byte* from = data + (at - range.start);
      of_file ? overwrite(at, from, part.bytes()) : fill(at, from, part.bytes());
    }
    at = part.end;
  }
}

void PagePlacer::place_run(const PageFrame::Run& run, std::uint64_t generation) {
  if (generation == generation_) {
    // Adjoining areas share a run.
    for (Address at = run.range.start; at < run.range.end;) {
      const TrackedArea& area = area_for(at, run.range);
      const PageRange part{at, std::min(run.range.end, area.range.end)};
      const std::byte* data = run.zero ? nullptr : run.data + (at - run.range.start);
      place_in(area, PageFrame::Run{part, run.zero, data});
      at = part.end;
    }
    return;
  }
  // An older description: page by page, into what is left of it.
  for (Address at = run.range.start; at < run.range.end; at += kPageSize) {
    const PageRange page{at, at + kPageSize};
    const TrackedArea* area = find_area(areas_, at);
    if (area == nullptr || is_outdated(page, generation)) continue;
    const std::byte* data = run.zero ? nullptr : run.data + (at - run.range.start);
    place_in(*area, PageFrame::Run{page, run.zero, data});
  }
}

void PagePlacer::place_in(const TrackedArea& area, const PageFrame::Run& run) {
  if (run.zero) {
    if (area.kind == AreaKind::kPrivateFile) {
      fail("zero pages {:x}-{:x} came for a mapping of a file", run.range.start, run.range.end);
    }
    filled_.for_each_run(run.range, [&](const PageRange& there) { overwrite_zero(there); });
    return;
  }
  if (area.kind == AreaKind::kPrivateFile) {
    overwrite(run.range.start, run.data, run.range.bytes());
    filled_.set(run.range);
    return;
  }
  for (Address at = run.range.start; at < run.range.end;) {
    bool there = false;
    const std::uint64_t bytes = filled_.uniform_bytes(PageRange{at, run.range.end}, &there);
    const std::byte* from = run.data + (at - run.range.start);
    if (there) {
      overwrite(at, from, bytes);
    } else {
      fill(at, from, bytes);
      filled_.set(PageRange{at, at + bytes});
    }
    at += bytes;
  }
}

void PagePlacer::fill(Address to, const std::byte* from, std::uint64_t bytes) const {
  std::uint64_t step = bytes;
  while (bytes > 0) {
    step = std::min(step, bytes);
    CopyOutcome outcome = userfaultfd_copy(uffd_.get(), to, from, step);
    if (outcome.bytes == 0 && outcome.code == ENOENT && step > kPageSize) {
      step = kPageSize;  // it may reach beyond the end of a mapping, which is refused as a whole
      continue;
    }
    if (outcome.bytes == 0 && (outcome.code == EEXIST || outcome.code == ENOENT)) {
      // It is there already, or its area is no longer registered and a fault waits for nobody.
      overwrite(to, from, kPageSize);
      outcome.bytes = kPageSize;
    } else if (outcome.bytes == 0 && outcome.code == EAGAIN) {
      sched_yield();  // the layout is being changed; it was just that moment
    } else if (outcome.bytes == 0) {
      throw_errno(outcome.code, fmt::format("placing the page at {:x}", to));
    } else {
      step *= 2;
    }
    to += outcome.bytes;
    from += outcome.bytes;
    bytes -= outcome.bytes;
  }
}

void PagePlacer::overwrite(Address to, const std::byte* from, std::uint64_t bytes) const {
  while (bytes > 0) {
    const ssize_t done = pwrite(memory_.get(), from, bytes, static_cast<off_t>(to));
    if (done < 0 && errno == EINTR) continue;
    if (done < 0) throw_system("writing the page at {:x}", to);
    if (done == 0) {
      throw Error("the address space that is being built is gone", ESRCH);
    }
    to += static_cast<Address>(done);
    from += done;
    bytes -= static_cast<std::uint64_t>(done);
  }
}

void PagePlacer::overwrite_zero(const PageRange& range) const {
  for (Address at = range.start; at < range.end;) {
    const std::uint64_t bytes = std::min<std::uint64_t>(kZeros.size(), range.end - at);
    overwrite(at, kZeros.data(), bytes);
    at += bytes;
  }
}

}  // namespace godwit
