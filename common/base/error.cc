#include "common/base/error.h"

#include <cstring>

namespace godwit {

std::string errno_text(int code) {
  const char* text = strerrordesc_np(code);
  return text != nullptr ? text : fmt::format("error {}", code);
}

void throw_errno(int code, const std::string& what) {
  throw Error(fmt::format("{}: {}", what, errno_text(code)), code);
}

}  // namespace godwit
