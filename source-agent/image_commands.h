// The commands of `migrate` that work on images and on no process.
#pragma once

#include <iosfwd>

#include "source-agent/options.h"

namespace godwit {

// kImages*, kInspect, kCore: say on `out` what was found or made. Return the exit code; throw
// Error.
int run_image_command(const MigrateOptions& options, std::ostream& out, std::ostream& err);

// kRestore: becomes `dest-agent restore`, which stands beside this program. Throws Error when it
// can't.
[[noreturn]] void become_restore(const MigrateOptions& options);

}  // namespace godwit
