// Sockets that a killed agent left closed off: in repair mode, or behind a filter that takes
// nothing in. The process is given them back as they were; its description died with the agent.
#pragma once

#include <sys/types.h>

namespace godwit {

// Before the process goes on. What can't be put right is logged; sockets that nobody closed off are
// left alone.
void release_left_sockets(pid_t pid) noexcept;

}  // namespace godwit
