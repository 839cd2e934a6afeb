// Puts received pages into an address space that is being built: missing pages by userfaultfd,
// present ones through the memory file.
//
// Writing through the memory file to a page that is missing would fault on it and wait for the
// userfaultfd, that is for ourselves: so a page is only written that way when it was filled before,
// or when UFFDIO_COPY said that it is there.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "common/base/unique_fd.h"
#include "common/tracking/dirty_tracker.h"
#include "common/tracking/page_bitmap.h"
#include "common/wire/page_frame.h"
#include "proto/page_service.pb.h"

namespace godwit {

class PagePlacer {
 public:
  // Descriptors of the address space: its memory file (O_RDWR) and its userfaultfd.
  PagePlacer(UniqueFd memory, UniqueFd uffd);

  // 0 before the first areas.
  std::uint64_t generation() const { return generation_; }
  void set_areas(const proto::SetAreas& order);

  // Places a verified frame whose generation is not newer than generation(). Runs of an older one
  // that lie outside of today's areas, or in areas made anew since, are passed over. Throws Error
  // for a run outside of all areas.
  void place(const PageFrame& frame);
  // Pages of an image, each of which comes once (`data` null: zeros). From any thread, as long as
  // the areas stay as they are and no frame comes.
  void place_once(const PageRange& range, const std::byte* data) const;

  // What of `pages` was placed.
  std::vector<PageRange> placed_of(const PageBitmap& pages) const;
  // The same, and it is to be dropped before anything else is placed.
  std::vector<PageRange> take_out(const PageBitmap& pages);

  const std::vector<TrackedArea>& areas() const { return areas_; }

 private:
  void place_run(const PageFrame::Run& run, std::uint64_t generation);
  void place_in(const TrackedArea& area, const PageFrame::Run& run);
  bool is_outdated(const PageRange& range, std::uint64_t generation) const;
  // The area at `address`; throws Error where there is none.
  const TrackedArea& area_for(Address address, const PageRange& range) const;
  void fill(Address to, const std::byte* from, std::uint64_t bytes) const;
  void overwrite(Address to, const std::byte* from, std::uint64_t bytes) const;
  void overwrite_zero(const PageRange& range) const;

  struct Renewal {
    PageRange range;
    std::uint64_t generation;
  };

  UniqueFd memory_;
  UniqueFd uffd_;
  std::uint64_t generation_ = 0;
  std::vector<TrackedArea> areas_;
  std::vector<Renewal> renewals_;  // fresh areas that frames of before may still be on the way to
  PageBitmap filled_;
};

}  // namespace godwit
