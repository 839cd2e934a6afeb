// `migrate drain`: every registered workload is moved away from this host; with --return, those
// that came here by a drain go back.
//
//   all are checked  ->  in the order of their priority, --parallel at a time, each is moved
//
// What is moved is noted by the `migrate` that moves it, in the registration itself, so that a
// drain that dies leaves no more to find out than a migration does.
#pragma once

#include <iosfwd>

#include "source-agent/options.h"

namespace godwit {

// Shows how it goes on on standard error, and in the end the summary: on `out` when all is well and
// the JSON does not go there, else on standard error too. A CancelSignals lives meanwhile: with a
// signal what is underway is rolled back, and the rest stays. Returns the exit code. Throws Refused
// (drain-in-course, and what stands against the report) and Error before anything is begun.
int run_drain(const MigrateOptions& options, std::ostream& out);

}  // namespace godwit
