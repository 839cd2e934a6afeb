#include "page-server/image_sink.h"

#include <unistd.h>

#include "page-server/page_server.h"

namespace godwit {
namespace {

// No id of an image is longer, and a story must not be.
constexpr std::size_t kIdBytes = 16;
// 128 MiB of pages.
constexpr std::size_t kKeptFramesMax = 512;

void sync(int fd, const char* what) {
  if (::fdatasync(fd) != 0) throw_system("sync the {} of the image", what);
}

}  // namespace

ImageSink::ImageSink(PageServiceLink::Order& order, WriteRing& ring, std::vector<ImageLevel> base)
    : pages_(take_fd(order, 0, "pages")),
      index_(take_fd(order, 1, "index")),
      free_(std::make_unique<PageFrame>()) {
  const proto::StartImage& start = order.order.start_image();
  const auto codec = codec_by_name(start.compression());
  if (!codec) fail("unknown compression \"{}\"", start.compression());
  if (start.id().size() != kIdBytes) fail("the id of the image has the wrong length");
  if (!base.empty()) base_.emplace(std::move(base));
  writer_.emplace(pages_.get(), start.id(), *codec, ring, base_ ? &*base_ : nullptr);
}

std::unique_ptr<PageFrame> ImageSink::take_free() {
  return free_ ? std::move(free_) : std::make_unique<PageFrame>();
}

void ImageSink::push(std::unique_ptr<PageFrame> frame) {
  if (!keeps_) {
    write(*frame);
    free_ = std::move(frame);
    return;
  }
  kept_.push_back(std::move(frame));
  if (kept_.size() <= kKeptFramesMax) return;
  write(*kept_.front());
  free_ = std::move(kept_.front());
  kept_.pop_front();
}

void ImageSink::write(const PageFrame& frame) {
  pieces_.clear();
  frame.for_each_run([this](const PageFrame::Run& run) {
    pieces_.push_back({run.range, run.data});
  });
  in_context([&] { writer_->add(frame.space(), pieces_); }, "writing pages to the image");
}

void ImageSink::forget_lost(std::uint32_t space, std::span<const TrackedArea> areas) {
  std::vector<PageRange> kept;
  for (const TrackedArea& area : areas) {
    if (!area.fresh) kept.push_back(area.range);
  }
  writer_->keep_only(space, kept);
}

void ImageSink::finish(proto::ImageWritten& told) {
  for (; !kept_.empty(); kept_.pop_front()) write(*kept_.front());
  const PagesWritten written =
      in_context([&] { return writer_->finish(index_.get()); }, "writing the image");
  sync(pages_.get(), "pages");
  sync(index_.get(), "index");
  told.set_bytes(written.pages_bytes);
  told.set_data_pages(written.data_pages);
  told.set_base_pages(written.base_pages);
}

}  // namespace godwit
