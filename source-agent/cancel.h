// Who may stop a migration from outside: SIGINT (Ctrl-C), SIGTERM, and SIGHUP, which comes when the
// terminal goes away. Before the commit the migration is rolled back; afterwards it is too late.
//
// The signals are blocked, so that no call is interrupted in the middle of something. They are let
// in where a wait may be given up (ppoll(2) with cancel_wait_mask()), and looked for between steps.
// See signal(7), sigpending(2).
#pragma once

#include <signal.h>

#include "common/base/error.h"

namespace godwit {

// Somebody asked to stop.
class Cancelled : public Error {
 public:
  using Error::Error;
};

// While it lives the three signals are noted instead of ending the program, however often they
// come. A SIGHUP that was ignored before (nohup(1)) stays so: the migration then outlives its
// terminal. What stops a job of a shell (Ctrl-Z, output from the background) is ignored: the task
// may stand still at that moment, and would with this program. One at a time; of the main thread.
class CancelSignals {
 public:
  CancelSignals();
  ~CancelSignals();
  CancelSignals(const CancelSignals&) = delete;
  CancelSignals& operator=(const CancelSignals&) = delete;

 private:
  sigset_t old_mask_;
  struct sigaction old_actions_[NSIG] {};
};

// The mask of the calling thread without the three signals.
sigset_t cancel_wait_mask();
// The signal that has come, 0: none.
int cancel_requested();
// Throws Cancelled when one has come.
void throw_if_cancelled();

}  // namespace godwit
