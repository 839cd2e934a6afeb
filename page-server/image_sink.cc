#include "page-server/image_sink.h"

#include <unistd.h>

#include "page-server/page_server.h"

namespace godwit {
namespace {

// No id of an image is longer, and a story must not be.
constexpr std::size_t kIdBytes = 16;

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

void ImageSink::push(std::unique_ptr<PageFrame> frame) {
  pieces_.clear();
  frame->for_each_run([this](const PageFrame::Run& run) {
    pieces_.push_back({run.range, run.data});
  });
  in_context([&] { writer_->add(frame->space(), pieces_); }, "writing pages to the image");
  free_ = std::move(frame);
}

void ImageSink::forget_lost(std::uint32_t space, std::span<const TrackedArea> areas) {
  std::vector<PageRange> kept;
  for (const TrackedArea& area : areas) {
    if (!area.fresh) kept.push_back(area.range);
  }
  writer_->keep_only(space, kept);
}

proto::PageReport ImageSink::finish() {
  const PagesWritten written =
      in_context([&] { return writer_->finish(index_.get()); }, "writing the image");
  sync(pages_.get(), "pages");
  sync(index_.get(), "index");
  proto::PageReport report;
  proto::ImageWritten& told = *report.mutable_image_written();
  told.set_bytes(written.pages_bytes);
  told.set_data_pages(written.data_pages);
  told.set_base_pages(written.base_pages);
  return report;
}

}  // namespace godwit
