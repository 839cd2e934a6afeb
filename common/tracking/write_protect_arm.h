// The agent's half of write-protect tracking: registering mappings of a task with a userfaultfd
// that was made inside it. Closing the last descriptor ends the tracking; an exec of the task does
// too.
#pragma once

#include <span>
#include <vector>

#include "common/base/page_range.h"

namespace godwit {

// UFFDIO_API with what WriteProtectTracker needs; once for a new descriptor. Throws Error.
void enable_write_protect_tracking(int uffd);

struct UnarmedRange {
  PageRange range;
  int code;  // errno: EINVAL: not a mapping that can be; EBUSY: another userfaultfd has it
};

// Registers the ranges (each within one mapping or several adjoining ones); registering again is
// harmless. Returns those that could not be: they read as written in every round.
std::vector<UnarmedRange> arm_write_protect(int uffd, std::span<const PageRange> ranges);

// The way back, of a process that runs on: little by little, with pauses in which its page faults
// and mmap(2) come to their turn. To close the descriptor at once keeps them out for some 25 ms a
// GiB. What can't be unregistered by itself is left to that. A mapping is in two parts meanwhile.
void disarm_write_protect(int uffd, std::span<const PageRange> ranges);

// To be called after arm_write_protect() and before the next scan. A mapping can lose its
// registration and keep protected pages (see docs/kernel-notes.md); these are written to without
// losing the protection. Once it is registered again they would never be told any more, so they
// are made to count as written. Costs a walk over the page tables; the task may run. `blocking`:
// the descriptor is of the kind that BlockingTracker needs.
void forget_old_protection(int uffd, int pagemap_fd, std::span<const PageRange> ranges,
                           bool blocking = false);

}  // namespace godwit
