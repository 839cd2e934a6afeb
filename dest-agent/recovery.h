// Cleaning up after sessions that died, and answering a source that has lost the answer.
//
// What is believed is the kernel: a restored process that outlives its session was let go of, which
// happens only when it sits in a frozen group; it has been released exactly when that group is
// thawed.
#pragma once

#include <string>

#include "proto/control.pb.h"

namespace godwit {

// After a session has ended: nothing to do when it ended well. Logs what it does; never throws.
void recover_destination(const std::string& state_dir, const std::string& migration_id) noexcept;

// At the daemon's start: all that earlier sessions left. Never throws.
void recover_destinations(const std::string& state_dir) noexcept;

// The migration has been committed and its process lives.
bool is_running(const std::string& state_dir, const std::string& migration_id) noexcept;

// Settles for good what became of a migration: a session that has not committed is ended first, so
// that an answer of UNKNOWN stays true; RUNNING when it does not end. A committed one is remembered
// until the source says that it has settled. Throws Error, also for a journal that can't be read:
// then there is no answer.
proto::Outcome settle_outcome(const std::string& state_dir, const proto::OutcomeRequest& asked);

}  // namespace godwit
