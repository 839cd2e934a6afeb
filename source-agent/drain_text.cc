#include "source-agent/drain_text.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "common/base/human_text.h"
#include "common/base/printable.h"
#include "common/model/report_json.h"

namespace godwit {
namespace {

using Json = nlohmann::ordered_json;
using Stage = DrainItem::Stage;

constexpr double kNsPerMs = 1e6;

std::string ms_text(double ms) { return duration_text(static_cast<std::int64_t>(ms * kNsPerMs)); }

std::size_t count_of(const std::vector<DrainItem>& items, Stage stage) {
  return static_cast<std::size_t>(std::count_if(
      items.begin(), items.end(), [stage](const DrainItem& item) { return item.stage == stage; }));
}

double longest_blackout_ms(const std::vector<DrainItem>& items) {
  double longest = 0;
  for (const DrainItem& item : items) {
    if (item.stage == Stage::kMoved) longest = std::max(longest, item.blackout_ms);
  }
  return longest;
}

std::string reason_text(const DrainItem& item) {
  if (item.story.empty()) return item.begun ? "it ended without a story" : "not begun";
  return item.story + (item.hint.empty() ? "" : "; " + item.hint);
}

std::string moved_text(const DrainItem& item) {
  return fmt::format("pid {} is pid {} at {}, blackout {}, {} in {}", item.workload.process.pid,
                     item.pid_there, printable(item.to), ms_text(item.blackout_ms),
                     bytes_text(item.bytes_sent), ms_text(item.total_ms));
}

std::string outcome_text(const DrainItem& item) {
  return item.stage == Stage::kMoved ? moved_text(item) : reason_text(item);
}

std::string activity_of(const ActiveItem& active) {
  if (active.item->stage == Stage::kChecking) return "checking";
  if (!active.status) return "beginning";
  const MigrationStatus& status = *active.status;
  if (status.state == State::kPreCopy && status.pages_left != MigrationStatus::kUnknown) {
    return fmt::format("{}: round {}, {} pages left", name_of(status.state), status.round,
                       status.pages_left);
  }
  if (status.state == State::kPostCopy) {
    return fmt::format("{}: {} of {} pages missing", name_of(status.state),
                       status.post_copy.missing_pages, status.post_copy.pages);
  }
  return std::string(name_of(status.state));
}

Json item_json(const DrainItem& item) {
  const Json report = Json::parse(item.report, nullptr, false);
  return Json{{"name", item.workload.name},
              {"priority", item.workload.priority},
              {"program", item.workload.program},
              {"pid", item.workload.process.pid},
              {"destination", item.to},
              {"outcome", outcome_name(item.stage)},
              {"begun", item.begun},
              {"pid_destination", item.stage == Stage::kMoved ? item.pid_there : 0},
              {"story", item.stage == Stage::kMoved ? "" : item.story},
              {"hint", item.hint},
              {"report", report.is_object() ? report : Json()}};
}

}  // namespace

std::string stage_text(const DrainItem& item) {
  const std::string& name = item.workload.name;
  switch (item.stage) {
    case Stage::kReady: {
      std::string text;
      for (std::size_t at = 0; at < item.warnings.size();) {
        const std::size_t end = item.warnings.find('\n', at);
        text += fmt::format("{}: warning: {}\n", name, item.warnings.substr(at, end - at));
        at = end + 1;
      }
      return text + fmt::format("{}: checked, nothing stands against it\n", name);
    }
    case Stage::kMoving:
      return fmt::format("{}: moving pid {} ({}) to {}\n", name, item.workload.process.pid,
                         printable(item.workload.program), printable(item.to));
    case Stage::kMoved:
    case Stage::kStayed:
    case Stage::kInDoubt:
      return fmt::format("{}: {}: {}\n", name, outcome_name(item.stage), outcome_text(item));
    case Stage::kWaiting:
    case Stage::kChecking:
      break;
  }
  return {};
}

std::vector<StyledLine> drain_lines(const std::vector<DrainItem>& items,
                                    const std::vector<ActiveItem>& active, std::int64_t elapsed_ns,
                                    int columns, int rows) {
  const auto width = static_cast<std::size_t>(std::max(columns, 1));
  std::string head = fmt::format("{} of {} moved", count_of(items, Stage::kMoved), items.size());
  if (const auto stayed = count_of(items, Stage::kStayed)) head += fmt::format(", {} stay", stayed);
  if (const auto lost = count_of(items, Stage::kInDoubt))
    head += fmt::format(", {} in doubt", lost);
  std::vector<StyledLine> lines;
  lines.push_back({{head.substr(0, width), TextStyle::kStrong}});
  const std::string elapsed = "   " + duration_text(elapsed_ns);
  if (head.size() + elapsed.size() <= width) lines[0].push_back({elapsed, TextStyle::kFaint});
  for (const ActiveItem& each : active) {
    if (static_cast<int>(lines.size()) >= rows) break;
    const std::string text =
        fmt::format("  {:<16} {}", each.item->workload.name, activity_of(each));
    lines.push_back({{text.substr(0, width)}});
  }
  return lines;
}

std::string drain_text(const std::vector<DrainItem>& items, const DrainSummary& summary) {
  std::string text =
      fmt::format("{} of {} {} in {}", count_of(items, Stage::kMoved),
                  count_text(items.size(), "registered workload"),
                  summary.returning ? "went back" : "moved away", duration_text(summary.total_ns));
  if (count_of(items, Stage::kMoved) > 0) {
    text += fmt::format(", longest blackout {}", ms_text(longest_blackout_ms(items)));
  }
  text += "\n";
  std::size_t width = 0;
  for (const DrainItem& item : items) width = std::max(width, item.workload.name.size());
  for (const DrainItem& item : items) {
    text += fmt::format("  {:<{}}  {:<8}  {}\n", item.workload.name, width,
                        outcome_name(item.stage), outcome_text(item));
  }
  return text;
}

std::string drain_json(const std::vector<DrainItem>& items, const DrainSummary& summary) {
  Json workloads = Json::array();
  for (const DrainItem& item : items) workloads.push_back(item_json(item));
  const auto moved = count_of(items, Stage::kMoved);
  const auto in_doubt = count_of(items, Stage::kInDoubt);
  const Json document{{"command", summary.returning ? "drain --return" : "drain"},
                      {"exit_code", summary.exit_code},
                      {"parallel", summary.parallel},
                      {"total_ms", json_ms(summary.total_ns)},
                      {"moved", moved},
                      {"stayed", items.size() - moved - in_doubt},
                      {"in_doubt", in_doubt},
                      {"blackout_ms_max", longest_blackout_ms(items)},
                      {"workloads", workloads}};
  return document.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

}  // namespace godwit
