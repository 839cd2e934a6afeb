// RLIMIT_NOFILE of this process (getrlimit(2)).
#pragma once

#include <cstddef>

namespace godwit {

// Raises both limits to plenty where that is allowed (CAP_SYS_RESOURCE), else the soft limit to the
// hard one: an agent holds a duplicate of every descriptor of the process that it moves, and some
// open files for each of its threads. The table of the calling process has room for most of them
// from then on, so that none has to wait until it has grown. Throws Error.
void raise_descriptor_limit();

// How many descriptors of an agent may be open only to look at something again faster: a part of
// the limit, so that whatever else is opened finds room.
std::size_t descriptors_for_watches();

}  // namespace godwit
