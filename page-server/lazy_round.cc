#include "page-server/lazy_round.h"

#include <algorithm>

#include "common/base/error.h"

namespace godwit {

PageBitmap leave_for_later(const proto::SendRound& order, std::span<const TrackedArea> areas,
                           PageBitmap& data) {
  PageBitmap later;
  for (const TrackedArea& area : areas) {
    if (area.kind != AreaKind::kAnonymous) continue;
    data.for_each_run(area.range, [&](const PageRange& run) { later.set(run); });
  }
  for (const proto::PageSpan& span : order.eager()) {
    const auto range = PageRange::make(span.start(), span.end());
    if (!range) fail("range {:x}-{:x} is not whole pages", span.start(), span.end());
    later.clear(*range);
  }
  later.for_each_run([&](const PageRange& run) { data.clear(run); });
  return later;
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
      frame->begin(PageFrame::Type::kMissing, order.space(), order.round(), order.generation());
    }
    frame->add_zero(run.start, run.pages());
  });
  if (frame != nullptr) send();
  return bytes;
}

}  // namespace godwit
