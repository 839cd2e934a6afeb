#include "common/model/report_text.h"

#include <algorithm>

#include "common/base/clock.h"
#include "common/base/human_text.h"

namespace godwit {
namespace {

constexpr std::size_t kRoundsAtEachEnd = 6;  // of many, those in the middle are left out
constexpr double kPartWorthALine = 0.01;     // of the blackout
constexpr std::size_t kBarColumns = 30;

std::size_t count_refusals(const Findings& findings) {
  return static_cast<std::size_t>(
      std::count_if(findings.begin(), findings.end(),
                    [](const proto::Finding& finding) { return !finding.warning(); }));
}

bool is_among(const Findings& findings, const std::string& id) {
  return std::any_of(findings.begin(), findings.end(), [&](const proto::Finding& finding) {
    return !finding.warning() && finding.id() == id;
  });
}

std::string findings_text(const Findings& findings) {
  std::string text;
  for (const proto::Finding& finding : findings) {
    text += fmt::format("{} [{}] {}: {}\n", finding.warning() ? "warning" : "refused", finding.id(),
                        finding.object(), finding.problem());
    if (!finding.way_out().empty()) text += fmt::format("    {}\n", finding.way_out());
  }
  return text;
}

std::string rate_text(const RoundReport& round) {
  if (round.bandwidth_bytes_per_s == 0) return "-";
  return bytes_text(round.bandwidth_bytes_per_s) + "/s";
}

std::string rounds_text(const MigrationReport& report) {
  std::string text = fmt::format("\n{:>5} {:>10} {:>10} {:>10} {:>11} {:>12} {:>18}\n", "round",
                                 "pages", "zero", "sent", "time", "bandwidth", "written meanwhile");
  const std::size_t count = report.rounds.size();
  for (std::size_t i = 0; i < count; ++i) {
    if (count > 2 * kRoundsAtEachEnd + 1 && i == kRoundsAtEachEnd) {
      const std::size_t left_out = count - 2 * kRoundsAtEachEnd;
      text += fmt::format("{:>5} {} more\n", "...", left_out);
      i += left_out - 1;
      continue;
    }
    const RoundReport& round = report.rounds[i];
    const bool in_blackout = i + 1 == count && report.blackout_ns != 0;
    const std::string written =
        round.dirty_pages_per_s == 0 ? "-" : fmt::format("{} pages/s", round.dirty_pages_per_s);
    text += fmt::format("{:>5} {:>10} {:>10} {:>10} {:>11} {:>12} {:>18}{}\n", round.round,
                        round.pages, round.zero_pages, bytes_text(round.bytes),
                        duration_text(round.ns), rate_text(round), in_blackout ? "-" : written,
                        in_blackout ? "  in the blackout" : "");
  }
  return text;
}

std::string sent_text(const MigrationReport& report) {
  std::string text = fmt::format("\nsent {} in {}", bytes_text(report.bytes_sent),
                                 count_text(report.rounds.size(), "round"));
  if (report.resident_bytes == 0) return text + "\n";
  return text + fmt::format(": {:.2f} times the {} that were resident\n",
                            static_cast<double>(report.bytes_sent) /
                                static_cast<double>(report.resident_bytes),
                            bytes_text(report.resident_bytes));
}

std::string post_copy_text(const PostCopyReport& report) {
  if (report.pages == 0) return {};
  return fmt::format(
      "post-copy: {} followed in {}: {} in the background, {} for {} (waited for {}, 99 % {}, "
      "the longest {})\n",
      count_text(report.pages, "page"), duration_text(report.ns),
      bytes_text(report.background_bytes), bytes_text(report.fault_bytes),
      count_text(report.faults, "fault"), duration_text(report.latency_p50_ns),
      duration_text(report.latency_p99_ns), duration_text(report.latency_max_ns));
}

std::string part_line(const std::string& name, std::int64_t ns, std::int64_t all_ns) {
  const double share = static_cast<double>(ns) / static_cast<double>(all_ns);
  const auto columns = static_cast<std::size_t>(
      std::clamp(share, 0.0, 1.0) * static_cast<double>(kBarColumns) + 0.5);
  std::string line = fmt::format("  {:<17} {:8.2f} ms {:4.0f} %", name, to_ms(ns), share * 100);
  if (columns > 0) line += "  " + std::string(columns, '#');
  return line + "\n";
}

std::string blackout_text(const MigrationReport& report) {
  std::string text = fmt::format("blackout {:.2f} ms\n", to_ms(report.blackout_ns));
  std::int64_t other_ns = 0;
  for (const auto& [name, ns] : report.blackout_phases_ns) {
    if (static_cast<double>(ns) < kPartWorthALine * static_cast<double>(report.blackout_ns)) {
      other_ns += ns;
      continue;
    }
    text += part_line(name, ns, report.blackout_ns);
  }
  if (other_ns > 0) text += part_line("everything else", other_ns, report.blackout_ns);
  return text;
}

}  // namespace

namespace {

const char* deed_of(const MigrationReport& report) {
  if (report.command == "checkpoint") return "be saved to";
  return report.command == "copy" ? "be copied to" : "move to";
}

}  // namespace

std::string outcome_line(const MigrationReport& report) {
  const std::string after = duration_text(report.total_ns);
  switch (report.state) {
    case State::kCompleted:
      if (report.command == "restore") {
        return fmt::format("restored: pid {} of {} is pid {} here, in {}", report.pid_source,
                           report.destination, report.pid_destination, after);
      }
      if (report.command == "checkpoint") {
        return fmt::format("saved: pid {} is in {}, in {}", report.pid_source, report.destination,
                           after);
      }
      if (report.command == "copy") {
        return fmt::format("copied: pid {} runs on here, its copy is pid {} at {}, in {}",
                           report.pid_source, report.pid_destination, report.destination, after);
      }
      return fmt::format("moved: pid {} here is pid {} at {}, in {}", report.pid_source,
                         report.pid_destination, report.destination, after);
    case State::kChecked:
      return fmt::format("pid {} can move to {}", report.pid_source, report.destination);
    case State::kRolledBack:
      if (report.command == "restore") return "not restored: " + report.destination;
      if (report.command == "check") return "not found out; nothing was touched";
      return fmt::format("rolled back after {}: pid {} runs on here", after, report.pid_source);
    case State::kRefused: {
      if (report.command == "restore") return "refused, nothing was made: " + report.destination;
      const std::size_t count = count_refusals(report.findings);
      return fmt::format("refused, nothing was touched: pid {} can't {} {}{}", report.pid_source,
                         deed_of(report), report.destination,
                         count > 1 ? fmt::format(" for {} reasons", count) : "");
    }
    case State::kPostCopy:
      return fmt::format(
          "it runs as pid {} at {}, where {} of it are still missing: they are in pid {}, which "
          "stays "
          "frozen here; `migrate recover` goes on",
          report.pid_destination, report.destination,
          count_text(report.post_copy.missing_pages, "page"), report.pid_source);
    default:
      return fmt::format(
          "in doubt in state {}: pid {} stays frozen here; `migrate recover` settles it",
          name_of(report.state), report.pid_source);
  }
}

std::string round_line(const RoundReport& round) {
  std::string line =
      fmt::format("round {}: {}, {} zero, {} in {}", round.round, count_text(round.pages, "page"),
                  round.zero_pages, bytes_text(round.bytes), duration_text(round.ns));
  if (round.bandwidth_bytes_per_s != 0) line += ", " + rate_text(round);
  if (round.dirty_pages_per_s != 0) {
    line += fmt::format(", {} pages/s written meanwhile", round.dirty_pages_per_s);
  }
  return line;
}

std::string finding_line(const proto::Finding& finding) {
  return fmt::format("{}: {}: {} [{}]{}{}", finding.warning() ? "warning" : "refused",
                     finding.object(), finding.problem(), finding.id(),
                     finding.way_out().empty() ? "" : "; ", finding.way_out());
}

std::string report_text(const MigrationReport& report) {
  std::string text = findings_text(report.findings);
  // The first refusal is the error, too: it has been told.
  if (report.error && !is_among(report.findings, report.error->id)) {
    text += fmt::format("error: {}\n", report.error->story);
    if (!report.error->hint.empty()) text += fmt::format("hint: {}\n", report.error->hint);
  }
  text += outcome_line(report) + "\n";
  if (report.verified) {
    text +=
        fmt::format("verified: {}\n", count_text(report.verify_differences.size(), "difference"));
    for (const std::string& line : report.verify_differences) text += "  " + line + "\n";
  }
  if (!report.rounds.empty()) text += rounds_text(report) + sent_text(report);
  text += post_copy_text(report.post_copy);
  if (report.state == State::kCompleted && report.blackout_ns > 0) text += blackout_text(report);
  return text;
}

}  // namespace godwit
