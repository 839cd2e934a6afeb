// Answers page faults of a restored process out of its image.
#pragma once

#include <functional>

#include "common/base/error.h"
#include "common/image/image_pages.h"
#include "common/wire/fault_request.h"

namespace godwit {

class ImageAnswers {
 public:
  explicit ImageAnswers(const ImagePages& image) : image_(image.another_reader()) {}

  struct Sinks {
    // Pages to be placed; true: nobody else waits, and more of the neighbourhood is welcome.
    std::function<bool(const PageRange&, const std::byte* data)> place;
    // Pages that can't be read.
    std::function<void(const PageRange&, const Error&)> lose;
  };
  // The page itself first, then what lies in its block around it.
  void answer(const FaultRequest& request, const Sinks& sinks);

 private:
  ImagePages image_;
};

}  // namespace godwit
