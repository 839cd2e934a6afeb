// Open files of kinds that cannot be moved, each refused with a name of its own.
#pragma once

#include "common/model/findings.h"
#include "source-agent/capture/fd_facts.h"

namespace godwit {

void refuse_foreign_file(const FdFacts& facts, Findings& findings);
// A socket that is neither TCP, UDP nor unix.
void refuse_foreign_socket(const FdFacts& facts, int family, int type, int protocol,
                           Findings& findings);

}  // namespace godwit
