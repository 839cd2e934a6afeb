#include "common/base/version.h"

#include <fmt/format.h>

namespace godwit {

std::string version_line(std::string_view program) {
  return fmt::format("{} {} ({})", program, GODWIT_VERSION, GODWIT_PROCESSOR);
}

}  // namespace godwit
