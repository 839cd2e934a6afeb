// epoll sets (epoll(7), proto/epolls.proto), from /proc/PID/fdinfo.
//
// The kernel keeps a target by its open file and the number it was added with. When that number is
// closed or reused while the file lives on elsewhere, the target has no name that could be added
// again: refused.
#pragma once

#include <functional>

#include "common/model/findings.h"
#include "proto/epolls.pb.h"
#include "source-agent/capture/fd_facts.h"

namespace godwit {

bool is_epoll(const FdFacts& facts);

// `find` gives any descriptor of the process by number, null: not open.
using FindFd = std::function<const FdFacts*(int)>;
proto::Epoll capture_epoll(const FdFacts& facts, const FindFd& find, Findings& findings);

}  // namespace godwit
