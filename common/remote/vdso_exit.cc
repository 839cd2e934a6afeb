// Bringing a stopped thread out of the vDSO (vdso(7)).
//
// PTRACE_SINGLESTEP is no way: when the agent is killed between two steps the kernel detaches the
// thread with the trap flag still set in its registers, and the next instruction kills it. So the
// thread runs on for a moment, untouched, and is stopped again, until it is out. An ordinary
// program is out at the first try; one that does nothing but read the clock takes some
// milliseconds.
#include <fmt/format.h>
#include <unistd.h>

#include "common/base/error.h"
#include "common/kernel/proc_maps.h"
#include "common/remote/remote_task_state.h"

namespace godwit {
namespace {

constexpr int kAttemptsMax = 2000;

bool stands_in(const Tracee& thread, const PageRange& vdso, Address code) {
  const Address at = thread.registers().instruction_pointer();
  const bool in_our_code = code != 0 && at >= code && at < code + site_bytes(code);
  return vdso.contains(at) && !in_our_code;
}

}  // namespace

void RemoteTask::step_out_of_vdso(Tracee& thread) {
  State& state = *state_;
  if (!thread.stopped()) fail("thread {} runs: it cannot be taken out of the vDSO", thread.tid());
  PageRange vdso;
  for (const MapsLine& line : read_maps(state.pid)) {
    if (line.path == "[vdso]") vdso = line.range;
  }
  for (int attempt = 0; stands_in(thread, vdso, state.runner.code()); ++attempt) {
    if (attempt == kAttemptsMax) fail("thread {} does not leave the vDSO", thread.tid());
    thread.resume();
    // Of changing length, so as not to fall into step with a loop of the thread; long enough for a
    // sleeping processor to wake up for it.
    usleep(static_cast<useconds_t>(1 + attempt * 7 % 23));
    thread.interrupt();
    thread.wait_stopped();
    if (thread.gone()) return;
  }
  state.runner.forget_signals();
}

}  // namespace godwit
