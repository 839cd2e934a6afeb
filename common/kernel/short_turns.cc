#include "common/kernel/short_turns.h"

#include <sched.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdint>

#include "common/kernel/precedence.h"
#include "common/kernel/processors.h"

namespace godwit {
namespace {

constexpr std::uint64_t kTurnNs = 100'000;

}  // namespace

void take_short_turns(bool background) noexcept {
  if (has_precedence()) return;  // which is more
  SchedulingAttributes attributes;
  attributes.policy = background ? SCHED_BATCH : SCHED_OTHER;
  attributes.nice = ::getpriority(PRIO_PROCESS, 0);
  attributes.runtime_ns = kTurnNs;
  ::syscall(SYS_sched_setattr, 0, &attributes, 0);
}

}  // namespace godwit
