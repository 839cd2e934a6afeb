// Frames go into the files of an image, and what a later frame replaced is forgotten.
#pragma once

#include <deque>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "common/image/image_pages.h"
#include "common/image/pages_file.h"
#include "common/tracking/dirty_tracker.h"
#include "common/wire/page_service_link.h"
#include "page-server/frame_sink.h"

namespace godwit {

class ImageSink final : public FrameSink {
 public:
  // `order`: StartImage with its descriptors. `base`: images that it rests on, or none. Borrows the
  // ring.
  ImageSink(PageServiceLink::Order& order, WriteRing& ring, std::vector<ImageLevel> base);

  std::unique_ptr<PageFrame> take_free() override;
  // Throws Error with the errno of a write that failed.
  void push(std::unique_ptr<PageFrame> frame) override;

  // From now on frames are kept in memory, up to a limit, until finish(): the process stands still,
  // or is about to write what is not saved yet, and is not to wait for compression or a disk.
  void keep() { keeps_ = true; }

  // Pages outside of all areas, and inside fresh ones, are not the process's any more.
  void forget_lost(std::uint32_t space, std::span<const TrackedArea> areas);
  // Writes what is left, and the index; syncs both, and tells what there is. No frame may follow.
  void finish(proto::ImageWritten& told);

 private:
  void write(const PageFrame& frame);

  UniqueFd pages_;
  UniqueFd index_;
  std::optional<ImagePages> base_;
  std::unique_ptr<PageFrame> free_;
  std::optional<PagesWriter> writer_;
  bool keeps_ = false;
  std::deque<std::unique_ptr<PageFrame>> kept_;
  std::vector<PagePiece> pieces_;  // of a frame; used again
};

}  // namespace godwit
