// Sends link-layer frames through one interface (packet(7)).
#pragma once

#include <string_view>

#include "common/base/unique_fd.h"

namespace godwit {

class FrameSender {
 public:
  // Bound to the interface with this index; receives nothing. Needs CAP_NET_RAW. Throws Error.
  explicit FrameSender(int interface);
  // A whole frame, link-layer header first. Throws Error.
  void send(std::string_view frame);

 private:
  UniqueFd fd_;
  int interface_;
};

}  // namespace godwit
