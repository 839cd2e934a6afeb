#include "page-server/image_source.h"

#include <algorithm>
#include <cstring>

namespace godwit {

ImageSource::ImageSource(std::vector<ImageLevel> levels, std::uint32_t round,
                         std::uint64_t generation)
    : image_(std::move(levels)), round_(round), generation_(generation) {
  spaces_ = image_.spaces();
  std::reverse(spaces_.begin(), spaces_.end());
  // A process without a page of its own has its round, too.
  if (spaces_.empty()) spaces_.push_back(0);
}

void ImageSource::fill(PageFrame& frame) {
  for (; at_ < pages_.size() && frame.has_room(); ++at_) {
    StoredPages& next = pages_[at_];
    if (next.zero) {
      frame.add_zero(next.range.start, next.range.pages());
      continue;
    }
    const std::span<std::byte> room = frame.data_room();
    const std::uint64_t bytes = std::min<std::uint64_t>(room.size(), next.range.bytes());
    std::memcpy(room.data(), image_.read(next), bytes);
    frame.add_data(next.range.start, bytes / kPageSize);
    if (bytes == next.range.bytes()) continue;
    next.range.start += bytes;
    next.first += static_cast<std::uint32_t>(bytes / kPageSize);
    return;
  }
}

bool ImageSource::next(PageFrame& frame) {
  if (!inside_) {
    if (spaces_.empty()) return false;
    pages_ = image_.pages_in_disk_order(spaces_.back());
    at_ = 0;
    inside_ = true;
  }
  const bool over = at_ == pages_.size();
  frame.begin(over ? PageFrame::Type::kEndOfRound : PageFrame::Type::kPages, spaces_.back(), round_,
              generation_);
  if (over) {
    spaces_.pop_back();
    inside_ = false;
  } else {
    fill(frame);
  }
  frame.seal();
  return true;
}

}  // namespace godwit
