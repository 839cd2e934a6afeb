// One migration on the destination, in a process of its own.
#pragma once

#include <string>

#include "common/base/unique_fd.h"
#include "dest-agent/options.h"

namespace godwit {

// Serves a control connection until it has ended, one way or the other. `page_connections`: a
// socket over which the daemon passes this migration's page connection. Returns the process's exit
// status; throws nothing. What is left behind when it is killed is removed by
// recover_destination().
int run_session(const DestOptions& options, const std::string& migration_id, UniqueFd control,
                UniqueFd page_connections);

}  // namespace godwit
