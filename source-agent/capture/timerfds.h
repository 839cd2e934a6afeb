// timerfd_create(2), from /proc/PID/fdinfo.
//
// A periodic timer that expired is not armed again by the kernel until somebody looks: its next
// expiration is unknown from outside. timerfd_gettime(2) on a duplicate brings it up to date, which
// loses nothing (the count of expirations is kept), so that comes first.
#pragma once

#include "common/kernel/time_namespace.h"
#include "common/model/findings.h"
#include "proto/timerfds.pb.h"
#include "source-agent/capture/fd_facts.h"

namespace godwit {

bool is_timerfd(const FdFacts& facts);

// `offsets` are those of the process's time namespace. Needs facts.copy; without it (running
// process) only clock and flags are described. Reads fdinfo anew from `directory`.
proto::TimerFd capture_timerfd(const FdFacts& facts, const ProcFdDirectory& directory,
                               const TimeOffsets& offsets, Findings& findings);

}  // namespace godwit
