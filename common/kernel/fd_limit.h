// RLIMIT_NOFILE of this process (getrlimit(2)).
#pragma once

namespace godwit {

// Raises the soft limit to the hard limit: an agent holds a duplicate of every descriptor of the
// process that it moves. Throws Error.
void raise_descriptor_limit();

}  // namespace godwit
