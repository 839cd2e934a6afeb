// What became of a migration; for programs as JSON (docs/report.md, field by field), for people see
// report_text.h. Times inside are nanoseconds; the JSON is in milliseconds.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "common/base/error.h"
#include "common/base/latency_histogram.h"
#include "common/base/unique_fd.h"
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

// After the switch, in post-copy.
struct PostCopyReport {
  std::uint64_t pages = 0;          // that were missing when it began to run there
  std::uint64_t missing_pages = 0;  // still
  std::uint64_t faults = 0;         // of the process that waited for a page
  std::uint64_t zero_faults = 0;    // on memory that it had never touched
  std::uint64_t fault_bytes = 0;    // over the connection for faults
  std::uint64_t background_bytes = 0;
  std::int64_t latency_p50_ns = 0;  // of faults, as the destination's page server sees it
  std::int64_t latency_p99_ns = 0;
  std::int64_t latency_max_ns = 0;
  int reconnects = 0;   // connections and page servers that were lost and replaced
  std::int64_t ns = 0;  // from the switch until the last page was there
  LatencyHistogram latencies;

  // While it goes on.
  static constexpr std::int64_t kUnknown = -1;
  std::uint64_t faults_per_s = 0;
  std::int64_t complete_in_ns = kUnknown;
};

struct ErrorReport {
  std::string story;
  std::string hint;
  std::string id;  // of a refusal: listed in docs/operations.md
};

struct MigrationReport {
  std::string command = "migrate";  // migrate, copy, check, checkpoint, restore
  State state = State::kConnecting;
  std::string migration_id;
  std::string destination;  // as given with --to
  pid_t pid_source = 0;
  pid_t pid_destination = 0;  // as the destination's host sees it; 0: none
  std::string pids;           // what auto came to: same, namespace
  std::string addresses;      // keep, move
  std::string tracker;        // write-protect, soft-dirty
  std::string mode;           // as asked for: pre, post, hybrid
  bool copied_on_write = false;

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
  PostCopyReport post_copy;
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
// Where the JSON goes: standard output for "-", else a file that appears whole or not at all, or a
// device or pipe that is there already.
class ReportFile {
 public:
  // Before the migration: makes sure that a file can be written there, with room enough on its
  // disk. Nothing shows under its name yet, and what had it stays. Throws Refused
  // (report-unwritable).
  explicit ReportFile(std::string path);
  ~ReportFile();
  ReportFile(const ReportFile&) = delete;
  ReportFile& operator=(const ReportFile&) = delete;

  // Once. Throws Error naming the path.
  void write(const MigrationReport& report) { write(report_json(report)); }
  void write(const std::string& text);

 private:
  void reserve();

  std::string path_;
  UniqueFd file_;          // not valid for what is no ordinary file
  std::string temporary_;  // the name that the file has meanwhile; empty: none
};

}  // namespace godwit
