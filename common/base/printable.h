// Text that came from elsewhere, in our messages: nothing that a terminal obeys, no line of its
// own.
#pragma once

#include <algorithm>
#include <string>

namespace godwit {

inline std::string printable(std::string text) {
  std::replace_if(
      text.begin(), text.end(), [](unsigned char c) { return c < ' ' || c == 0x7f; }, '?');
  return text;
}

}  // namespace godwit
