// Whether this program may do what agents do (capabilities(7)).
#pragma once

#include <string>

namespace godwit {

// Why it may not: not root, or which of the capabilities are missing that both agents need. Empty
// when it may. Throws Error when /proc does not tell.
std::string missing_privileges();

}  // namespace godwit
