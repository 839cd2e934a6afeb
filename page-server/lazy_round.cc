#include "page-server/lazy_round.h"

#include <unistd.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "common/base/error.h"
#include "page-server/areas.h"
#include "page-server/index_pages.h"

namespace godwit {

namespace {

// Something of each will be touched soon.
void take_small_areas(std::span<const TrackedArea> areas, std::uint64_t pages_max,
                      LeftPages& left) {
  std::vector<std::pair<std::uint64_t, PageRange>> sizes;
  for (const TrackedArea& area : areas) {
    if (area.kind != AreaKind::kAnonymous) continue;
    std::uint64_t pages = 0;
    left.missing.for_each_run(area.range, [&](const PageRange& run) { pages += run.pages(); });
    if (pages > 0) sizes.emplace_back(pages, area.range);
  }
  std::sort(sizes.begin(), sizes.end(),
            [](const auto& one, const auto& other) { return one.first < other.first; });
  for (const auto& [pages, range] : sizes) {
    if (pages > pages_max) return;
    pages_max -= pages;
    left.missing.clear(range);
    left.written.clear(range);
  }
}

}  // namespace

LeftPages leave_for_later(const proto::SendRound& order, std::span<const TrackedArea> areas,
                          PageBitmap& data) {
  LeftPages left;
  std::uint64_t at_once = order.eager_written_pages();
  for (const TrackedArea& area : areas) {
    if (area.kind != AreaKind::kAnonymous) continue;
    data.for_each_run(area.range, [&](PageRange run) {
      left.missing.set(run);
      const PageRange now{run.start, run.start + std::min(at_once, run.pages()) * kPageSize};
      at_once -= now.pages();
      if (now.pages() > 0) left.missing.clear(now);
      if (now.end < run.end) left.written.set({now.end, run.end});
    });
  }
  take_small_areas(areas, order.eager_area_pages(), left);
  for (const proto::PageSpan& span : order.eager()) {
    const auto range = PageRange::make(span.start(), span.end());
    if (!range) fail("range {:x}-{:x} is not whole pages", span.start(), span.end());
    left.missing.clear(*range);
    left.written.clear(*range);
  }
  left.missing.for_each_run([&](const PageRange& run) { data.clear(run); });
  return left;
}

void leave_named(const proto::SendRound& order, std::span<const TrackedArea> areas,
                 const PageBitmap& named, const IsReadable& readable, PageBitmap& data,
                 LeftPages& left) {
  const PageBitmap there = in_anonymous_areas(named, areas);
  for (const proto::PageSpan& span : order.eager()) {
    const PageRange range{span.start(), span.end()};
    there.for_each_run(range, [&](const PageRange& run) {
      for (Address page = run.start; page < run.end; page += kPageSize) {
        if (readable(page)) data.set(PageRange{page, page + kPageSize});
      }
    });
  }
  there.for_each_run([&](const PageRange& run) { left.missing.set(run); });
  data.for_each_run([&](const PageRange& run) { left.missing.clear(run); });
}

void take_index_pages(const proto::SendRound& order, std::span<const TrackedArea> areas,
                      const PageBitmap& named, int memory, const LeftPages& left,
                      PageBitmap& data) {
  if (order.eager_index_pages() == 0) return;
  PageBitmap candidates = in_anonymous_areas(named, areas);
  left.missing.for_each_run([&](const PageRange& run) { candidates.clear(run); });
  const auto read = [memory](Address page, std::span<std::byte> to) {
    return ::pread(memory, to.data(), to.size(), static_cast<off_t>(page)) ==
           static_cast<ssize_t>(to.size());
  };
  for (const PageRange& run :
       find_index_pages(areas, candidates, order.eager_index_pages(), read)) {
    data.set(run);
  }
}

std::uint64_t name_missing(const proto::SendRound& order, const PageBitmap& missing,
                           FrameSink& sink) {
  std::unique_ptr<PageFrame> frame;
  std::uint64_t bytes = 0;
  const auto send = [&] {
    frame->seal();
    bytes += frame->wire_bytes();
    sink.push(std::move(frame));
  };
  missing.for_each_run([&](const PageRange& run) {
    if (frame != nullptr && !frame->has_room()) send();
    if (frame == nullptr) {
      frame = sink.take_free();
      frame->begin(order.final() ? PageFrame::Type::kMissing : PageFrame::Type::kMissingAhead,
                   order.space(), order.round(), order.generation());
    }
    frame->add_zero(run.start, run.pages());
  });
  if (frame != nullptr) send();
  return bytes;
}

}  // namespace godwit
