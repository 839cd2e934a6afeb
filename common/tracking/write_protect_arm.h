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

}  // namespace godwit
