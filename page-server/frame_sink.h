// Where filled frames go, one after the other.
#pragma once

#include <memory>

#include "common/wire/page_frame.h"

namespace godwit {

class FrameSink {
 public:
  FrameSink() = default;
  FrameSink(const FrameSink&) = delete;
  FrameSink& operator=(const FrameSink&) = delete;
  virtual ~FrameSink() = default;

  // An unused frame; may wait for one.
  virtual std::unique_ptr<PageFrame> take_free() = 0;
  virtual void push(std::unique_ptr<PageFrame> frame) = 0;
};

}  // namespace godwit
