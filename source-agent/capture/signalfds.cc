#include "source-agent/capture/signalfds.h"

namespace godwit {

bool is_signalfd(const FdFacts& facts) { return facts.is_anonymous("[signalfd]"); }

proto::SignalFd capture_signalfd(const FdFacts& facts) {
  if (!facts.info.signal_mask) fail("{}: fdinfo has no mask", facts.name());
  proto::SignalFd out;
  out.set_mask(*facts.info.signal_mask);
  return out;
}

}  // namespace godwit
