// The bounded queue between two threads of a page server: a fixed set of frames that go round, so a
// slow network (or a slow placer) makes the other thread wait instead of making memory grow.
//
//   filler: take_free() -> fill -> push()        drainer: pop() -> use -> recycle()
#pragma once

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <memory>
#include <mutex>
#include <vector>

#include "page-server/frame_sink.h"

namespace godwit {

class FrameQueue final : public FrameSink {
 public:
  explicit FrameQueue(std::size_t frames);

  // Waits for an unused frame.
  std::unique_ptr<PageFrame> take_free() override;
  void push(std::unique_ptr<PageFrame> frame) override;
  // Waits for a frame; null after close() once all are popped.
  std::unique_ptr<PageFrame> pop();
  void recycle(std::unique_ptr<PageFrame> frame);

  // No more pushes.
  void close();
  // Waits until every frame is back.
  void wait_drained();

 private:
  std::mutex mutex_;
  std::condition_variable freed_;
  std::condition_variable filled_;
  std::vector<std::unique_ptr<PageFrame>> free_;
  std::deque<std::unique_ptr<PageFrame>> full_;
  std::size_t total_;
  bool closed_ = false;
};

}  // namespace godwit
