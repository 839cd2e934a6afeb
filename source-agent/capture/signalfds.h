// signalfd(2), from /proc/PID/fdinfo. What it would deliver are the process's pending signals,
// which belong to the signals kind.
#pragma once

#include "proto/signalfds.pb.h"
#include "source-agent/capture/fd_facts.h"

namespace godwit {

bool is_signalfd(const FdFacts& facts);
proto::SignalFd capture_signalfd(const FdFacts& facts);

}  // namespace godwit
