// What the source keeps after the switch: pages that the destination does not have yet. The
// background stream takes them in order, page faults take what they need first.
//
// Thread: any; calls are short.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <mutex>
#include <optional>

#include "common/base/page_range.h"
#include "common/tracking/page_bitmap.h"

namespace godwit {

class MissingPages {
 public:
  // All that is missing of the space, in place of what was set before.
  void set(std::uint32_t space, const PageBitmap& pages);

  // Of those that were set: the background stream takes them before the rest.
  void put_first(std::uint32_t space, const PageBitmap& pages);

  // Whether the page was ever named as missing: nothing else may be asked for.
  bool names(std::uint32_t space, Address page) const;
  // From `page` on, what follows it without a gap and was not sent: its neighbourhood, which a
  // program is likely to touch next. The background stream goes on behind it.
  std::optional<PageRange> take_at(std::uint32_t space, Address page, std::uint64_t pages_max);
  // The next ones for the background stream; nothing when all of the space was taken.
  std::optional<PageRange> take_next(std::uint32_t space, std::uint64_t pages_max);

  std::uint64_t left() const;

 private:
  struct Space {
    PageBitmap named;
    PageBitmap left;
    Address next = 0;
    std::deque<PageRange> detours;  // behind faults
    std::deque<PageRange> first;
  };
  static std::optional<PageRange> take(Space& space, const PageRange& range,
                                       std::uint64_t pages_max);
  static std::optional<PageRange> take_of(Space& space, std::deque<PageRange>& ranges,
                                          std::uint64_t pages_max);

  mutable std::mutex mutex_;
  std::map<std::uint32_t, Space> spaces_;  // guarded by mutex_
};

}  // namespace godwit
