// Memory that is there before it is needed (mallopt(3)): in the blackout neither a page fault for
// the heap's growth nor a system call to give some of it back.
#pragma once

#include <cstddef>

namespace godwit {

// For the life of the process: freed memory is kept, and `bytes` of it are made resident now.
// Before other threads start.
void keep_heap_steady(std::size_t bytes);

}  // namespace godwit
