// The round of the switch in post-copy: what of its findings stays at the source.
#pragma once

#include <functional>
#include <span>

#include "common/tracking/dirty_tracker.h"
#include "common/tracking/page_bitmap.h"
#include "page-server/frame_sink.h"
#include "proto/page_service.pb.h"

namespace godwit {

struct LeftPages {
  PageBitmap missing;
  PageBitmap written;  // those of them that were written last: likely to be touched first
};

// Takes out of `data`, which was written since the last round, what can be asked for later: private
// anonymous pages, except those that the order wants at once. Pages of files and of shared memory
// travel now: userfaultfd(2) does not serve the former, and of the latter it does not tell what
// only one mapping lets go of (MADV_DONTNEED) from what is removed (MADV_REMOVE).
LeftPages leave_for_later(const proto::SendRound& order, std::span<const TrackedArea> areas,
                          PageBitmap& data);

// What of `named`, by the rounds before this one, is missing beside `left`: all that this round
// does not send. Adds to `data` what of it the order wants at once, as far as it is `readable`: a
// page of an area that was unmapped since the areas were told is not, and stays named until the
// next order tells of the areas as they are.
using IsReadable = std::function<bool(Address page)>;
void leave_named(const proto::SendRound& order, std::span<const TrackedArea> areas,
                 const PageBitmap& named, const IsReadable& readable, PageBitmap& data,
                 LeftPages& left);

// Adds to `data` those of `named`, by the rounds before this one and not by this one, that lead to
// others, as many as the order wants.
void take_index_pages(const proto::SendRound& order, std::span<const TrackedArea> areas,
                      const PageBitmap& named, int memory, const LeftPages& left, PageBitmap& data);

// Sends frames that name these pages as missing; their bytes on the wire.
std::uint64_t name_missing(const proto::SendRound& order, const PageBitmap& missing,
                           FrameSink& sink);

}  // namespace godwit
