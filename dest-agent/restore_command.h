// `dest-agent restore`, which `migrate restore` becomes: a process out of an image, by the code
// that takes migrations in.
#pragma once

#include "dest-agent/options.h"

namespace godwit {

// Returns the exit code: 0 it runs, 1 it could not be restored, 2 refused before anything was made.
int run_restore(const DestOptions& options);

}  // namespace godwit
