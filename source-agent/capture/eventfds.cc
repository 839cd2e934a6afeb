#include "source-agent/capture/eventfds.h"

namespace godwit {

bool is_eventfd(const FdFacts& facts) { return facts.is_anonymous("[eventfd]"); }

proto::EventFd capture_eventfd(const FdFacts& facts, Findings& findings) {
  proto::EventFd out;
  if (!facts.info.eventfd_count) fail("{}: fdinfo has no count", facts.name());
  out.set_count(*facts.info.eventfd_count);
  if (!facts.info.eventfd_semaphore) {
    refuse(findings, "fd-eventfd-unknown", facts.name(),
           "this kernel does not tell whether an eventfd is a semaphore",
           "needs Linux 6.5 or newer");
  }
  out.set_semaphore(facts.info.eventfd_semaphore.value_or(false));
  return out;
}

}  // namespace godwit
