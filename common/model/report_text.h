// The report of a migration as people read it.
#pragma once

#include <string>

#include "common/model/report.h"

namespace godwit {

// How it ended, in one line: where the process runs now.
std::string outcome_line(const MigrationReport& report);
// The whole: findings, error with its hint, how it ended, the rounds, what was sent in proportion
// to what was resident, what the blackout was spent on.
std::string report_text(const MigrationReport& report);
// One line for a round, while it goes on: "round 2: 1200 pages, 12 zero, 4.9 MB in 8.1 ms, ...".
std::string round_line(const RoundReport& round);
// One line per finding: "refused: fd 7: ... [id]; way out".
std::string finding_line(const proto::Finding& finding);

}  // namespace godwit
