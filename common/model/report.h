// What became of a migration: for people as text, for programs as JSON (docs/report.md, field by
// field). Times inside are nanoseconds; the outputs are in milliseconds.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "common/base/error.h"
#include "common/model/findings.h"
#include "common/model/phase.h"

namespace godwit {

struct RoundReport {
  std::uint32_t round = 0;
  std::uint64_t pages = 0;       // sent with their data
  std::uint64_t zero_pages = 0;  // sent as a marker
  std::uint64_t bytes = 0;       // on the wire
  std::int64_t ns = 0;           // from the order until the destination had placed them
  std::int64_t scan_ns = 0;
  // Measured while the round ran; 0 where there was nothing to measure.
  std::uint64_t dirty_pages_per_s = 0;
  std::uint64_t bandwidth_bytes_per_s = 0;
  std::int64_t began_unix_ns = 0;  // CLOCK_REALTIME; of the last one, when the blackout began
};

struct ErrorReport {
  std::string story;
  std::string hint;
  std::string id;  // of a refusal: listed in docs/operations.md
};

struct MigrationReport {
  std::string command = "migrate";  // migrate, check
  State state = State::kConnecting;
  std::string migration_id;
  std::string destination;  // as given with --to
  pid_t pid_source = 0;
  pid_t pid_destination = 0;  // as the destination's host sees it; 0: none
  std::string pids;           // what auto came to: same, namespace
  std::string addresses;      // keep, move
  std::string tracker;        // write-protect, soft-dirty

  std::int64_t total_ns = 0;
  std::int64_t blackout_ns = 0;
  std::int64_t frozen_unix_ns = 0;  // CLOCK_REALTIME when the blackout began
  // In their order: the states of the machine, and what the blackout was spent on.
  std::vector<std::pair<std::string, std::int64_t>> phases_ns;
  std::vector<std::pair<std::string, std::int64_t>> blackout_phases_ns;

  std::vector<RoundReport> rounds;
  std::uint64_t bytes_sent = 0;  // on the page connection, all rounds
  std::uint64_t pages_sent = 0;
  std::uint64_t zero_pages = 0;
  std::uint64_t resident_bytes = 0;  // of the process, when the migration began

  std::optional<ErrorReport> error;
  Findings findings;
  bool verified = false;  // --verify ran
  std::vector<std::string> verify_differences;
};

// Adds a round and counts it into the sums.
void add_round(MigrationReport& report, const RoundReport& round);
// Takes state and durations over from the machine.
void set_phases(MigrationReport& report, const PhaseMachine& machine, std::int64_t now_ns);
ErrorReport describe_error(const Error& error);

// The JSON document, pretty-printed, with a newline at the end.
std::string report_json(const MigrationReport& report);
// Some lines for people: how it ended, what the blackout was spent on, findings, error with its
// hint.
std::string report_text(const MigrationReport& report);
// "blackout 4.2 ms (freeze 0.3, last pages 1.2)".
std::string blackout_line(const MigrationReport& report);
// One line for a round, while it goes on: "round 2: 1200 pages, 12 zero, 4.9 MB in 8.1 ms, ...".
std::string round_line(const RoundReport& round);
// One line per finding: "refused: fd 7: ... (id); way out".
std::string finding_line(const proto::Finding& finding);

// To standard output for "-", else into a file that appears whole or not at all (a temporary beside
// it, renamed). Throws Error naming the path.
void write_report(const MigrationReport& report, const std::string& path);

}  // namespace godwit
