#include "source-agent/drain_item.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "common/base/printable.h"

namespace godwit {
namespace {

using Json = nlohmann::ordered_json;
using Stage = DrainItem::Stage;

std::string finding_text(const Json& finding) {
  return printable(fmt::format("{}: {} [{}]", finding.value("object", ""),
                               finding.value("problem", ""), finding.value("id", "")));
}

// Everything that stands against it, the first with its way out.
void take_findings(DrainItem& item, const Json& report) {
  std::string story;
  std::string hint;
  item.warnings.clear();
  for (const Json& finding : report.value("findings", Json::array())) {
    const std::string text = finding_text(finding);
    if (finding.value("warning", false)) {
      item.warnings += text + "\n";
      continue;
    }
    story += (story.empty() ? "" : "; ") + text;
    if (hint.empty()) hint = printable(finding.value("way_out", ""));
  }
  if (story.empty()) return;
  item.story = story;
  item.hint = hint;
}

void take_error(DrainItem& item, const Json& report) {
  const Json error = report.value("error", Json());
  if (!error.is_object()) return;
  item.story = printable(error.value("story", ""));
  item.hint = printable(error.value("hint", ""));
  const std::string id = error.value("id", "");
  if (!id.empty()) item.story += fmt::format(" [{}]", printable(id));
}

// False: there is none that can be read.
bool take_report(DrainItem& item, const std::string& text) {
  const Json report = Json::parse(text, nullptr, false);
  if (!report.is_object()) return false;
  item.report = text;
  take_error(item, report);
  take_findings(item, report);
  item.pid_there = report.value("pid_destination", 0);
  item.blackout_ms = report.value("blackout_ms", 0.0);
  item.total_ms = report.value("total_ms", 0.0);
  item.bytes_sent = report.value("bytes_sent", std::uint64_t{0});
  return true;
}

Stage stage_after(Stage stage, int exit_code) {
  if (stage == Stage::kChecking) return exit_code == 0 ? Stage::kReady : Stage::kStayed;
  switch (exit_code) {
    case 0:
      return Stage::kMoved;
    case 1:
    case 2:
      return Stage::kStayed;
    default:  // killed, too: it may have come past its commit
      return Stage::kInDoubt;
  }
}

}  // namespace

std::string_view outcome_name(Stage stage) {
  if (stage == Stage::kMoved) return "moved";
  return stage == Stage::kInDoubt ? "in doubt" : "stayed";
}

void settle_item(DrainItem& item, int exit_code, const std::string& report,
                 const std::string& said) {
  item.stage = stage_after(item.stage, exit_code);
  if (!take_report(item, report)) {
    item.story = exit_code < 0 ? fmt::format("its migrate was ended by signal {}", -exit_code)
                               : fmt::format("its migrate ended with {}", exit_code);
    const std::string last = printable(said.substr(0, said.find('\n')));
    if (!last.empty()) item.story += ": " + last;
    item.hint = item.stage == Stage::kInDoubt ? "run: migrate recover" : "";
  }
  const bool good = item.stage == Stage::kReady || item.stage == Stage::kMoved;
  if (good) {
    item.story.clear();
    item.hint.clear();
  } else if (item.stage == Stage::kInDoubt && item.hint.empty()) {
    item.hint = "run: migrate recover";
  }
}

}  // namespace godwit
