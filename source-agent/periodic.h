// `migrate checkpoint --every`: one checkpoint after the other, as long as the process lives.
#pragma once

#include <functional>

#include "common/model/phase.h"
#include "source-agent/options.h"

namespace godwit {

// `save` makes one image and says how it ended. A CancelSignals lives meanwhile. What fails is
// tried again at the next turn, unless the first is refused. Returns the exit code: that of the
// last one, or 0 when the process has ended or somebody asked to stop.
int run_periodic(const MigrateOptions& options,
                 const std::function<State(const MigrateOptions&)>& save);

}  // namespace godwit
