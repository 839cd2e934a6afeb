// One workload of a drain: how far it has come, and what its `migrate` said.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "common/model/workload.h"

namespace godwit {

struct DrainItem {
  enum class Stage {
    kWaiting,
    kChecking,
    kReady,  // nothing stands against it
    kMoving,
    kMoved,
    kStayed,  // it runs on here, or never was moved
    kInDoubt,
  };

  Workload workload;
  std::string to;  // ADDR:PORT
  Stage stage = Stage::kWaiting;
  bool begun = false;  // its migration was started
  std::string story;   // why it stayed, or is in doubt
  std::string hint;
  std::string warnings;  // whole lines
  std::string report;    // of its last `migrate`, JSON; empty: none
  pid_t pid_there = 0;
  double blackout_ms = 0;
  double total_ms = 0;
  std::uint64_t bytes_sent = 0;
};

// "moved", "stayed", "in doubt"; what is not decided, as if nothing more came: "stayed".
std::string_view outcome_name(DrainItem::Stage stage);

// What an ended job means for its item, which is in kChecking or kMoving. `exit_code` as
// DrainJob::exit_code(), `said`: its standard error.
void settle_item(DrainItem& item, int exit_code, const std::string& report,
                 const std::string& said);

}  // namespace godwit
