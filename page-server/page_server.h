// What both roles of the page server share: orders from the agent, failures to the agent.
#pragma once

#include <cstdint>
#include <string>

#include "common/base/unique_fd.h"
#include "common/image/image_pages.h"
#include "common/image/write_ring.h"
#include "common/tracking/soft_dirty_tracker.h"
#include "common/wire/page_service_link.h"

namespace godwit {

inline constexpr std::int64_t kHandshakeNs = 20'000'000'000;
inline constexpr std::size_t kQueuedFrames = 6;  // of a quarter MiB each, between two threads

// What has to be found out before privileges are given away, for the trackers.
struct KernelFacts {
  bool absent_is_written = false;  // see WriteProtectTracker
  ZeroFrames zeros;                // see SoftDirtyTracker
};

// Each role serves its agent until it is told to quit or the agent is gone; returns the exit code.
// Throws Error. `ring`: for pages that go to an image, else null.
int serve_source(PageServiceLink& link, const KernelFacts& kernel, WriteRing* ring);
int serve_destination(PageServiceLink& link);

// Whether the work on pages is shared by two threads: `asked` is 1 or 2, or 0 for what pays off
// here. Where both page servers, the service and its clients may have two processors between them,
// as on one machine, handing a frame to another thread costs more than working on two at once
// gains: its bytes are in the cache of the one that filled it.
bool works_on_two_threads(std::uint32_t asked);

// Tells the agent and ends the process with exit code 1: from whatever thread met the failure.
[[noreturn]] void die(PageServiceLink& link, const std::string& story);

// The one descriptor at `index` of an order. Throws Error when it did not come along.
UniqueFd take_fd(PageServiceLink::Order& order, std::size_t index, const char* what);
// What an order AddImageLevel brings.
ImageLevel take_image_level(PageServiceLink::Order& order);

}  // namespace godwit
