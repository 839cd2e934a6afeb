// How far the source's clocks are from this host's.
#pragma once

#include "common/kernel/time_namespace.h"
#include "common/wire/channel.h"

namespace godwit {

// Asks the source for the clocks as its task sees them, several times, and takes the quickest
// answer. The offsets never make a clock go back: what is not known (at most one round trip) makes
// it jump forward. Throws Error.
TimeOffsets measure_clocks(Channel& control);

}  // namespace godwit
