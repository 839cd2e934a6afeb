#include "common/model/status_text.h"

#include <algorithm>

#include "common/base/human_text.h"
#include "common/base/printable.h"
#include "common/model/report_json.h"

namespace godwit {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::size_t kBarColumns = 40;

Json known(std::int64_t value) {
  return value == MigrationStatus::kUnknown ? Json(nullptr) : Json(value);
}
Json known_ms(std::int64_t ns) {
  return ns == MigrationStatus::kUnknown ? Json(nullptr) : Json(json_ms(ns));
}

State state_of(const ListedMigration& migration) {
  return migration.agent_alive && migration.status ? migration.status->state
                                                   : migration.record.state;
}

// A process that has moved and is only remembered for a source that may ask is in no course.
bool is_remembered_only(const ListedMigration& migration) {
  return migration.record.role == "destination" && !migration.agent_alive &&
         migration.record.state == State::kCommitted && !migration.record.misses_pages;
}

Json status_fields(const MigrationStatus& status, std::int64_t now_ns) {
  Json json{{"told_ms_ago", json_ms(std::max<std::int64_t>(now_ns - status.told_ns, 0))},
            {"round", status.round},
            {"pages_left", known(status.pages_left)},
            {"dirty_pages_per_s", known(status.dirty_pages_per_s)},
            {"bandwidth_bytes_per_s", known(status.bandwidth_bytes_per_s)},
            {"switch_in_ms", known_ms(status.switch_in_ns)},
            {"source_away", status.source_away},
            {"post_copy", post_copy_json(status.post_copy)}};
  if (json["post_copy"].is_null()) return json;
  json["post_copy"].erase("ms");
  json["post_copy"]["faults_per_s"] = status.post_copy.faults_per_s;
  json["post_copy"]["complete_in_ms"] = known_ms(status.post_copy.complete_in_ns);
  return json;
}

std::string latencies_text(const LatencyHistogram& latencies) {
  std::uint64_t largest = 0;
  latencies.for_each_count(
      [&](std::int64_t, std::uint64_t count) { largest = std::max(largest, count); });
  std::string text;
  latencies.for_each_count([&](std::int64_t below_ns, std::uint64_t count) {
    text += fmt::format("    below {:>9} {:>9}  {}\n", duration_text(below_ns), count,
                        std::string((count * kBarColumns + largest - 1) / largest, '#'));
  });
  return text;
}

std::string rounds_line(const MigrationStatus& status) {
  if (status.round == 0) return {};
  std::string text = fmt::format("  round {}", status.round);
  const auto unknown = MigrationStatus::kUnknown;
  const auto put = [&](std::int64_t value, const std::string& words) {
    if (value != unknown) text += words;
  };
  put(status.pages_left, fmt::format(", {} pages left", status.pages_left));
  put(status.dirty_pages_per_s, fmt::format(", it writes {} pages/s", status.dirty_pages_per_s));
  put(status.bandwidth_bytes_per_s,
      fmt::format(", sends {}/s", bytes_text(static_cast<std::uint64_t>(
                                      std::max<std::int64_t>(status.bandwidth_bytes_per_s, 0)))));
  put(status.switch_in_ns, ", switch in about " + duration_text(status.switch_in_ns));
  return text + "\n";
}

std::string missing_lines(const MigrationStatus& status) {
  const PostCopyReport& report = status.post_copy;
  if (report.pages == 0) return {};
  std::string text = fmt::format("  {} of {} pages missing", report.missing_pages, report.pages);
  if (status.source_away) {
    text += ", and their source is away: `migrate recover` says more\n";
  } else if (report.complete_in_ns != PostCopyReport::kUnknown) {
    text += fmt::format(", complete in about {}\n", duration_text(report.complete_in_ns));
  } else {
    text += "\n";
  }
  text += fmt::format("  {} ({}/s) waited for {} (99 % {}, the longest {})\n",
                      count_text(report.faults, "fault"), report.faults_per_s,
                      duration_text(report.latency_p50_ns), duration_text(report.latency_p99_ns),
                      duration_text(report.latency_max_ns));
  return text + latencies_text(report.latencies);
}

std::string one_text(const ListedMigration& migration) {
  const JournalRecord& record = migration.record;
  const State state = state_of(migration);
  std::string text = fmt::format("{} {} pid {}", record.migration_id, record.role,
                                 migration.status ? migration.status->pid : record.process.pid);
  if (!record.peer.empty()) text += " to " + printable(record.peer);
  text += fmt::format(": {}\n", name_of(state));
  if (!migration.agent_alive) {
    return text + "  its agent is gone: `migrate recover` says more\n";
  }
  if (!migration.status) return text + "  its agent tells nothing\n";
  return text + (state == State::kPostCopy ? missing_lines(*migration.status)
                                           : rounds_line(*migration.status));
}

}  // namespace

std::vector<ListedMigration> list_migrations(const JournalFolder& folder) {
  std::vector<ListedMigration> found;
  for (const char* role : {"source", "destination"}) {
    for (JournalRecord& record : folder.load_all(role).records) {
      ListedMigration migration;
      migration.status = try_read_status(folder.status_path_of(record));
      migration.agent_alive =
          is_alive(record.agent) || (migration.status && is_alive(migration.status->agent));
      migration.record = std::move(record);
      if (!is_remembered_only(migration)) found.push_back(std::move(migration));
    }
  }
  return found;
}

std::string status_text(const std::vector<ListedMigration>& migrations) {
  if (migrations.empty()) return "no migration is in course on this host\n";
  std::string text;
  for (const ListedMigration& migration : migrations) text += one_text(migration);
  return text;
}

std::string status_json(const std::vector<ListedMigration>& migrations, std::int64_t now_ns) {
  Json list = Json::array();
  for (const ListedMigration& migration : migrations) {
    const JournalRecord& record = migration.record;
    const auto& status = migration.status;
    Json json{{"migration_id", record.migration_id},
              {"role", record.role},
              {"pid", status ? status->pid : record.process.pid},
              {"state", name_of(state_of(migration))},
              {"destination", record.peer.empty() ? Json(nullptr) : Json(record.peer)},
              {"agent_pid", status ? status->agent.pid : record.agent.pid},
              {"agent_alive", migration.agent_alive}};
    json.update(status_fields(status.value_or(MigrationStatus{}), now_ns));
    if (!status) json["told_ms_ago"] = nullptr;
    list.push_back(std::move(json));
  }
  return list.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

}  // namespace godwit
