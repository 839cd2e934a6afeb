#include "common/model/report.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <cmath>
#include <cstdio>
#include <iterator>
#include <nlohmann/json.hpp>

#include "common/base/clock.h"
#include "common/base/scope_exit.h"
#include "common/base/unique_fd.h"

namespace godwit {
namespace {

using Json = nlohmann::ordered_json;

// Milliseconds with whole microseconds: a reader has no use for more digits.
double json_ms(std::int64_t ns) { return std::round(static_cast<double>(ns) / 1e3) / 1e3; }

Json phases_json(const std::vector<std::pair<std::string, std::int64_t>>& phases) {
  Json object = Json::object();
  for (const auto& [name, ns] : phases) object[name] = json_ms(ns);
  return object;
}

Json round_json(const RoundReport& round) {
  return Json{{"round", round.round},
              {"pages", round.pages},
              {"zero_pages", round.zero_pages},
              {"bytes", round.bytes},
              {"ms", json_ms(round.ns)},
              {"scan_ms", json_ms(round.scan_ns)},
              {"dirty_pages_per_s", round.dirty_pages_per_s},
              {"bandwidth_bytes_per_s", round.bandwidth_bytes_per_s},
              {"began_unix_ns", round.began_unix_ns}};
}

Json finding_json(const proto::Finding& finding) {
  return Json{{"id", finding.id()},
              {"object", finding.object()},
              {"problem", finding.problem()},
              {"way_out", finding.way_out()},
              {"warning", finding.warning()}};
}

Json error_json(const std::optional<ErrorReport>& error) {
  if (!error) return nullptr;
  return Json{{"story", error->story}, {"hint", error->hint}, {"id", error->id}};
}

template <typename Items, typename ToJson>
Json array_json(const Items& items, ToJson to_json) {
  Json array = Json::array();
  for (const auto& item : items) array.push_back(to_json(item));
  return array;
}

std::string bytes_text(std::uint64_t bytes) {
  static constexpr const char* kUnits[] = {"B", "kB", "MB", "GB", "TB"};
  double value = static_cast<double>(bytes);
  std::size_t unit = 0;
  while (value >= 1000 && unit + 1 < std::size(kUnits)) {
    value /= 1000;
    ++unit;
  }
  return unit == 0 ? fmt::format("{} B", bytes) : fmt::format("{:.1f} {}", value, kUnits[unit]);
}

std::string outcome_line(const MigrationReport& report) {
  switch (report.state) {
    case State::kCompleted:
      return fmt::format("moved: pid {} here is pid {} at {}", report.pid_source,
                         report.pid_destination, report.destination);
    case State::kChecked:
      return fmt::format("pid {} can move to {}", report.pid_source, report.destination);
    case State::kRolledBack:
      return fmt::format("rolled back: pid {} runs on here", report.pid_source);
    case State::kRefused:
      return fmt::format("refused: nothing was touched, pid {} runs on here", report.pid_source);
    default:
      return fmt::format(
          "in doubt in state {}: pid {} stays frozen here; `migrate recover` settles it",
          name_of(report.state), report.pid_source);
  }
}

void write_text(int fd, const std::string& text, const std::string& path) {
  std::size_t done = 0;
  while (done < text.size()) {
    const ssize_t put = ::write(fd, text.data() + done, text.size() - done);
    if (put < 0 && errno == EINTR) continue;
    if (put < 0) throw_system("write {}", path);
    done += static_cast<std::size_t>(put);
  }
}

}  // namespace

void add_round(MigrationReport& report, const RoundReport& round) {
  report.rounds.push_back(round);
  report.bytes_sent += round.bytes;
  report.pages_sent += round.pages;
  report.zero_pages += round.zero_pages;
}

void set_phases(MigrationReport& report, const PhaseMachine& machine, std::int64_t now_ns) {
  report.state = machine.state();
  report.total_ns = now_ns - machine.history().front().entered_ns;
  report.phases_ns.clear();
  for (const auto& [state, ns] : machine.durations_ns(now_ns)) {
    report.phases_ns.emplace_back(name_of(state), ns);
  }
}

ErrorReport describe_error(const Error& error) {
  const auto* refused = dynamic_cast<const Refused*>(&error);
  return {error.what(), error.hint(), refused != nullptr ? refused->id() : std::string()};
}

std::string report_json(const MigrationReport& report) {
  const Json document{
      {"command", report.command},
      {"state", name_of(report.state)},
      {"exit_code", exit_code_of(report.state)},
      {"migration_id", report.migration_id},
      {"destination", report.destination},
      {"pid_source", report.pid_source},
      {"pid_destination", report.pid_destination},
      {"pids", report.pids},
      {"addresses", report.addresses},
      {"tracker", report.tracker},
      {"total_ms", json_ms(report.total_ns)},
      {"blackout_ms", json_ms(report.blackout_ns)},
      {"frozen_unix_ns", report.frozen_unix_ns},
      {"phases_ms", phases_json(report.phases_ns)},
      {"blackout_phases_ms", phases_json(report.blackout_phases_ns)},
      {"rounds", array_json(report.rounds, round_json)},
      {"bytes_sent", report.bytes_sent},
      {"pages_sent", report.pages_sent},
      {"zero_pages", report.zero_pages},
      {"resident_bytes", report.resident_bytes},
      {"error", error_json(report.error)},
      {"findings", array_json(report.findings, finding_json)},
      {"verified", report.verified},
      {"verify_differences", report.verify_differences},
  };
  // Paths and names of a process need not be UTF-8; a report must come out all the same.
  return document.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

std::string blackout_line(const MigrationReport& report) {
  std::string parts;
  for (const auto& [name, ns] : report.blackout_phases_ns) {
    parts += fmt::format("{}{} {:.1f}", parts.empty() ? "" : ", ", name, to_ms(ns));
  }
  return fmt::format("blackout {:.1f} ms{}", to_ms(report.blackout_ns),
                     parts.empty() ? "" : fmt::format(" ({})", parts));
}

std::string round_line(const RoundReport& round) {
  std::string line =
      fmt::format("round {}: {} pages, {} zero, {} in {:.1f} ms", round.round, round.pages,
                  round.zero_pages, bytes_text(round.bytes), to_ms(round.ns));
  if (round.bandwidth_bytes_per_s != 0) {
    line += fmt::format(", {}/s", bytes_text(round.bandwidth_bytes_per_s));
  }
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
  std::string text;
  for (const proto::Finding& finding : report.findings) text += finding_line(finding) + "\n";
  if (report.error) {
    text += fmt::format("error: {}\n", report.error->story);
    if (!report.error->hint.empty()) text += fmt::format("hint: {}\n", report.error->hint);
  }
  text += outcome_line(report) + "\n";
  if (report.verified) {
    text += fmt::format("verified: {} differences\n", report.verify_differences.size());
    for (const std::string& line : report.verify_differences) text += "  " + line + "\n";
  }
  if (report.blackout_ns != 0) {
    text += fmt::format("{} rounds, {} pages, {} zero pages, {} sent in {:.1f} ms\n",
                        report.rounds.size(), report.pages_sent, report.zero_pages,
                        bytes_text(report.bytes_sent), to_ms(report.total_ns));
    text += blackout_line(report) + "\n";
  }
  return text;
}

void write_report(const MigrationReport& report, const std::string& path) {
  const std::string text = report_json(report);
  if (path == "-") {
    write_text(STDOUT_FILENO, text, "standard output");
    return;
  }
  struct stat info {};
  if (::stat(path.c_str(), &info) == 0 && !S_ISREG(info.st_mode)) {
    // A pipe or a device is written as it is: renaming over it would replace it.
    const UniqueFd fd = open_file(path, O_WRONLY);
    write_text(fd.get(), text, path);
    return;
  }
  const std::string temporary = fmt::format("{}.{}.tmp", path, ::getpid());
  const UniqueFd fd = open_file(temporary, O_WRONLY | O_CREAT | O_TRUNC, 0644);
  ScopeExit remove([&temporary] { ::unlink(temporary.c_str()); });
  write_text(fd.get(), text, temporary);
  if (::rename(temporary.c_str(), path.c_str()) != 0)
    throw_system("rename {} to {}", temporary, path);
  remove.dismiss();
}

}  // namespace godwit
