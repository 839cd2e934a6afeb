// A registered workload that comes to this host is registered here, with the host that sent it as
// its home.
#pragma once

#include <string>

#include "common/model/findings.h"
#include "common/model/workload.h"
#include "common/wire/channel.h"

namespace godwit {

// Adds workload-name-taken when another live workload has its name here. Returns its registration,
// for the journal. `source` is the control connection: whose certificate it shows is its home, and
// where it comes from, with the port that it came to, is where that host's dest-agent is expected
// when it does not tell. Throws Error for a name that can't be one.
std::string preflight_arrival(const WorkloadFolder& folder,
                              const proto::TravellingWorkload& travels, const Channel& source,
                              Findings& findings);

}  // namespace godwit
