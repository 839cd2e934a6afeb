// `migrate --leave-running --to ADDR:PORT`: a copy of the process is made there, and it runs on
// here. What this does otherwise than a migration.
//
// Up to the point where the destination is prepared both are the same. Then the process goes on
// first, with its connections, and the copy is released after it: it has none. Two copies are what
// was asked for, so no freezer decides and nobody is ever in doubt.
#pragma once

#include "source-agent/migration.h"

namespace godwit {

bool makes_copy(const Migration& migration);

// migration.final_message as the copy is to have it: its connections are over, and what had come
// by them can be read.
proto::Envelope final_of_copy(const Migration& migration);
// Without those of sockets that are over there.
proto::Corrections corrections_of_copy(const Migration& migration,
                                       const proto::Corrections& corrections);

// The process runs on here: releases the copy. Throws Error when it is not known to run.
void finish_copy(Migration& migration);

}  // namespace godwit
