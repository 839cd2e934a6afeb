// What a drain tells: lines for people, a document for programs (docs/report.md).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "common/model/status_page.h"
#include "source-agent/drain_item.h"
#include "source-agent/progress_text.h"

namespace godwit {

struct DrainSummary {
  bool returning = false;
  int parallel = 1;
  int exit_code = 0;
  std::int64_t total_ns = 0;
};

// An item that has come to another stage: "web: moving pid 12 (redis-server) to 10.0.0.2:7000".
// Whole lines.
std::string stage_text(const DrainItem& item);
// The block on a terminal: how far it has come, and each workload that is at it, at most `rows`
// lines of at most `columns` characters.
struct ActiveItem {
  const DrainItem* item;
  std::optional<MigrationStatus> status;
};
std::vector<StyledLine> drain_lines(const std::vector<DrainItem>& items,
                                    const std::vector<ActiveItem>& active, std::int64_t elapsed_ns,
                                    int columns, int rows);

// How it ended, a line for each workload.
std::string drain_text(const std::vector<DrainItem>& items, const DrainSummary& summary);
std::string drain_json(const std::vector<DrainItem>& items, const DrainSummary& summary);

}  // namespace godwit
