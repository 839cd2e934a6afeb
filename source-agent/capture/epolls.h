// epoll sets (epoll(7), proto/epolls.proto), from /proc/PID/fdinfo.
//
// The kernel keeps a target by its open file and the number it was added with. When that number is
// closed or reused while the file lives on elsewhere, the target has no name that could be added
// again: refused.
#pragma once

#include <map>

#include "common/model/findings.h"
#include "proto/epolls.pb.h"
#include "source-agent/capture/fd_facts.h"

namespace godwit {

bool is_epoll(const FdFacts& facts);

// `open` has every descriptor of the process by number.
proto::Epoll capture_epoll(const FdFacts& facts, const std::map<int, const FdFacts*>& open,
                           Findings& findings);

}  // namespace godwit
