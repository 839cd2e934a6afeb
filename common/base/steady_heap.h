// Memory that is there before it is needed (mallopt(3)): in the blackout neither a page fault for
// the heap's growth nor a system call to give some of it back.
#pragma once

namespace godwit {

// For the life of the process: freed memory is kept, and some MiB of it, more than a blackout uses,
// are made resident now. Before that, much that is free between what is used is given back, which
// takes a millisecond then. From the only thread.
void keep_heap_steady();

// Gives back what a large step needed and the next ones do not: takes a millisecond or more, and
// the pages are there no more when they are needed again. Before keep_heap_steady(), if at all.
void give_heap_back();

}  // namespace godwit
