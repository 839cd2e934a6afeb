#include "page-server/frame_queue.h"

#include <utility>

namespace godwit {

FrameQueue::FrameQueue(std::size_t frames) : total_(frames) {
  for (std::size_t i = 0; i < frames; ++i) free_.push_back(std::make_unique<PageFrame>());
}

std::unique_ptr<PageFrame> FrameQueue::take_free() {
  std::unique_lock lock(mutex_);
  freed_.wait(lock, [&] { return !free_.empty(); });
  std::unique_ptr<PageFrame> frame = std::move(free_.back());  // the one the cache still knows
  free_.pop_back();
  return frame;
}

void FrameQueue::push(std::unique_ptr<PageFrame> frame) {
  {
    const std::lock_guard lock(mutex_);
    full_.push_back(std::move(frame));
  }
  filled_.notify_one();
}

std::unique_ptr<PageFrame> FrameQueue::pop() {
  std::unique_lock lock(mutex_);
  filled_.wait(lock, [&] { return !full_.empty() || closed_; });
  if (full_.empty()) return nullptr;
  std::unique_ptr<PageFrame> frame = std::move(full_.front());
  full_.pop_front();
  return frame;
}

void FrameQueue::recycle(std::unique_ptr<PageFrame> frame) {
  {
    const std::lock_guard lock(mutex_);
    free_.push_back(std::move(frame));
  }
  freed_.notify_all();
}

void FrameQueue::close() {
  {
    const std::lock_guard lock(mutex_);
    closed_ = true;
  }
  filled_.notify_all();
}

void FrameQueue::wait_drained() {
  std::unique_lock lock(mutex_);
  freed_.wait(lock, [&] { return free_.size() == total_; });
}

}  // namespace godwit
