// What only the destination can judge before anything is built.
#pragma once

#include <string>
#include <vector>

#include "common/model/findings.h"
#include "proto/control.pb.h"

namespace godwit {

// Files, ids, memory, namespaces, limits. `pids` and `addresses` as in Hello. Adds findings;
// returns what `auto` comes to: "same" or "namespace".
std::string preflight_destination(const proto::PreflightRequest& request, const proto::Hello& hello,
                                  Findings& findings);

}  // namespace godwit
