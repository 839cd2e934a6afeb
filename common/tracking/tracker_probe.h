// Which way of dirty tracking this kernel really has: tried on memory of the caller's own, because
// a kernel without soft-dirty accepts the write to clear_refs and does nothing.
#pragma once

#include <optional>
#include <string_view>

#include "common/tracking/soft_dirty_tracker.h"

namespace godwit {

enum class TrackerKind { kWriteProtect, kSoftDirty };

// "write-protect", "soft-dirty": as in reports and in StartSource.tracker.
std::string_view tracker_name(TrackerKind kind);
std::optional<TrackerKind> tracker_by_name(std::string_view name);

// The better of those that work, or nothing. Needs the privileges of an agent.
std::optional<TrackerKind> probe_tracker();
bool probe_tracker(TrackerKind kind);
bool probe_write_protect();
bool probe_soft_dirty();

// Whether a scan for written pages reports pages of a registered mapping that were given back or
// were never there, in an existing and in a missing page table. Kernels differ. False when in
// doubt.
bool probe_absent_is_written();

// Needs the privileges of an agent; nothing is known without. `huge` is found where huge pages are
// on.
ZeroFrames probe_zero_frames();

}  // namespace godwit
