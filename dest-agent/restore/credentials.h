// Credentials at the destination (credentials(7), capabilities(7)). Class: cut-over; after this a
// task can do no more for its own restore.
//
// The kernel keeps credentials per thread: the rows run in every thread.
#pragma once

#include <cstdint>

#include "common/model/findings.h"
#include "common/remote/syscall_batch.h"
#include "proto/credentials.pb.h"

namespace godwit {

// The capabilities that this agent, and so a new skeleton, has.
struct CapabilitiesHere {
  std::uint64_t permitted = 0;
  std::uint64_t bounding = 0;
};
CapabilitiesHere capabilities_here();

// Capabilities that are not here are left out (check_credentials told it beforehand).
void plan_credentials(const CapabilitiesHere& here, const proto::Credentials& want,
                      SyscallBatch& batch);

// Warns: capability-missing (permitted or ambient), bounding-set-narrowed.
void check_credentials(const CapabilitiesHere& here, const proto::Credentials& want,
                       Findings& findings);

}  // namespace godwit
