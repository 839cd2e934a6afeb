// The version of this build, for `--version` and bug reports. What hosts agree on is the version of
// each message (proto/), not this.
#pragma once

#include <string>
#include <string_view>

namespace godwit {

// "migrate 0.1.0 (x86_64)".
std::string version_line(std::string_view program);

}  // namespace godwit
