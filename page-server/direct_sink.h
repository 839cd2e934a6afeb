// Sends a frame where it was filled.
#pragma once

#include <functional>
#include <memory>
#include <utility>

#include "page-server/frame_sink.h"

namespace godwit {

class DirectSink final : public FrameSink {
 public:
  explicit DirectSink(std::function<void(const PageFrame&)> send)
      : send_(std::move(send)), free_(std::make_unique<PageFrame>()) {}

  std::unique_ptr<PageFrame> take_free() override { return std::move(free_); }
  void push(std::unique_ptr<PageFrame> frame) override {
    send_(*frame);
    free_ = std::move(frame);
  }

 private:
  std::function<void(const PageFrame&)> send_;
  std::unique_ptr<PageFrame> free_;
};

}  // namespace godwit
