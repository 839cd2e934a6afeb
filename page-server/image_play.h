// The pages of an image on their way into a process: all of them before it runs, or what it touches
// first before and the rest while it does.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "common/image/image_pages.h"
#include "common/tracking/page_bitmap.h"
#include "page-server/fault_service.h"
#include "page-server/page_placer.h"
#include "page-server/rate_limit.h"
#include "proto/page_service.pb.h"

namespace godwit {

class ImagePlay {
 public:
  // Reads the indexes. Throws Error naming file and offset of what is damaged.
  ImagePlay(std::vector<ImageLevel> levels, const proto::PlayImage& order);

  // A process without a page of its own has its round, too.
  std::vector<std::uint32_t> spaces() const;
  const ImagePages& pages() const { return image_; }

  // Works out which pages of the space are to come at once: all of them, or, where the order is a
  // lazy one, what it names; the rest is put into `missing`.
  void prepare(std::uint32_t space, PageBitmap& missing);
  struct Placed {
    std::uint64_t pages = 0;
    std::uint64_t zero_pages = 0;
    std::uint64_t bytes = 0;
  };
  // Places these, by as many threads as pay off. The areas must stay as they are meanwhile. Throws
  // Error for pages that are damaged.
  Placed place(const PagePlacer& placer);
  // What is still missing of the space, at the speed that the order allows.
  void place_rest(std::uint32_t space, FaultService& faults);

 private:
  // Pages of one block or a few, which one thread reads.
  using Turn = std::span<const StoredPages>;
  static std::vector<Turn> turns_of(std::span<const StoredPages> pages);
  void place_turn(ImagePages& image, Turn turn, const PagePlacer& placer) const;
  void split(const StoredPages& pages, PageBitmap& missing);

  ImagePages image_;
  bool lazy_;
  PageBitmap eager_;
  RateLimit limit_;
  std::vector<StoredPages> now_;  // as prepared
};

}  // namespace godwit
