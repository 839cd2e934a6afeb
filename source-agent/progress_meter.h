// What an operator wants to know about a migration that is underway, computed from what is
// measured. Pure: clocks come in as arguments (nanoseconds, CLOCK_MONOTONIC).
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "common/model/phase.h"
#include "common/model/report.h"
#include "source-agent/convergence.h"

namespace godwit {

// How long it will be until the switch.
struct SwitchEstimate {
  enum class Kind {
    kUnknown,  // nothing has been measured yet
    kAbout,
    kAtLeast,  // how much is written meanwhile is not known yet
    kNever,    // as it is now: more is written than can be sent
  };
  Kind kind = Kind::kUnknown;
  std::int64_t ns = 0;
};

struct ProgressFacts {
  State state = State::kConnecting;
  bool switching = false;  // the next thing is the blackout
  pid_t pid = 0;
  std::string destination;
  std::int64_t elapsed_ns = 0;
  std::uint32_t round = 0;  // 0: none has begun
  std::optional<std::uint64_t> round_pages;
  std::uint64_t pages_left = 0;
  std::optional<std::uint64_t> dirty_pages_per_s;
  std::optional<std::uint64_t> bandwidth_bytes_per_s;
  std::optional<std::int64_t> pause_ns;  // predicted
  std::int64_t pause_ns_max = 0;         // wanted
  SwitchEstimate switch_in;
  std::optional<PostCopyReport> post_copy;  // from the switch on, in post-copy
  std::optional<std::int64_t> complete_in_ns;
};

struct RoundOutlook {
  std::uint64_t pages_left = 0;
  std::int64_t elapsed_ns = 0;  // of this round
  std::optional<std::uint64_t> dirty_pages_per_s;
  std::uint64_t bandwidth_bytes_per_s = 0;
};

// What this round still takes, and those that follow: each sends what was written while the one
// before was underway, until the rest fits into the wanted downtime.
SwitchEstimate estimate_switch(const RoundOutlook& outlook, const ConvergenceLimits& limits);

// Gathers the news of one migration.
class ProgressMeter {
 public:
  ProgressMeter(pid_t pid, std::string destination, const ConvergenceLimits& limits,
                std::int64_t now_ns);

  void begin_round(std::uint32_t round, std::int64_t now_ns);
  // News of a round may come more than once; those of another round are not meant.
  void scanned(std::uint32_t round, std::uint64_t pages);
  void sent(std::uint32_t round, std::uint64_t pages, std::uint64_t bytes, std::int64_t now_ns);
  void end_round(const RoundReport& round, const Prediction& prediction);
  void serve(const PostCopyReport& report);

  ProgressFacts facts(State state, bool switching, std::int64_t now_ns) const;

 private:
  ConvergenceLimits limits_;
  ProgressFacts facts_;  // what does not depend on the clock
  std::int64_t began_ns_;
  std::int64_t round_began_ns_ = 0;
  std::int64_t last_round_ns_ = 0;  // how long the one before took; 0: there was none
  bool in_round_ = false;
};

}  // namespace godwit
