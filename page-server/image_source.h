// Frames out of an image, in the order in which the image lies on disk: one round of every address
// space.
#pragma once

#include <cstdint>
#include <vector>

#include "common/image/image_pages.h"
#include "common/wire/page_frame.h"

namespace godwit {

class ImageSource {
 public:
  // `round` and `generation` of the frames.
  ImageSource(std::vector<ImageLevel> levels, std::uint32_t round, std::uint64_t generation);

  // Fills and seals the next one; false after the last. Throws Error naming file and offset of what
  // is damaged.
  bool next(PageFrame& frame);

 private:
  void fill(PageFrame& frame);

  ImagePages image_;
  std::uint32_t round_;
  std::uint64_t generation_;
  std::vector<std::uint32_t> spaces_;  // still to come, the last one first
  std::vector<StoredPages> pages_;     // of the current one
  std::size_t at_ = 0;                 // in pages_
  bool inside_ = false;                // a space has begun and not ended
};

}  // namespace godwit
