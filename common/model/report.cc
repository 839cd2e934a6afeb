#include "common/model/report.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "common/model/report_json.h"

namespace godwit {
namespace {

using Json = nlohmann::ordered_json;

// More than a report of some hundred rounds has.
constexpr off_t kReservedBytes = 256 << 10;

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

Json latencies_json(const LatencyHistogram& latencies) {
  Json array = Json::array();
  latencies.for_each_count([&](std::int64_t below_ns, std::uint64_t count) {
    array.push_back(Json{{"below_ms", json_ms(below_ns)}, {"faults", count}});
  });
  return array;
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

std::string temporary_name(const std::string& path) {
  return fmt::format("{}.{}.tmp", path, ::getpid());
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

double json_ms(std::int64_t ns) { return std::round(static_cast<double>(ns) / 1e3) / 1e3; }

Json post_copy_json(const PostCopyReport& report) {
  if (report.pages == 0) return nullptr;
  return Json{{"pages", report.pages},
              {"missing_pages", report.missing_pages},
              {"faults", report.faults},
              {"zero_faults", report.zero_faults},
              {"fault_bytes", report.fault_bytes},
              {"background_bytes", report.background_bytes},
              {"fault_latency_p50_ms", json_ms(report.latency_p50_ns)},
              {"fault_latency_p99_ms", json_ms(report.latency_p99_ns)},
              {"fault_latency_max_ms", json_ms(report.latency_max_ns)},
              {"fault_latencies", latencies_json(report.latencies)},
              {"reconnects", report.reconnects},
              {"ms", json_ms(report.ns)}};
}

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
      {"mode", report.mode},
      {"total_ms", json_ms(report.total_ns)},
      {"blackout_ms", json_ms(report.blackout_ns)},
      {"frozen_unix_ns", report.frozen_unix_ns},
      {"phases_ms", phases_json(report.phases_ns)},
      {"blackout_phases_ms", phases_json(report.blackout_phases_ns)},
      {"rounds", array_json(report.rounds, round_json)},
      {"bytes_sent", report.bytes_sent},
      {"pages_sent", report.pages_sent},
      {"zero_pages", report.zero_pages},
      {"post_copy", post_copy_json(report.post_copy)},
      {"resident_bytes", report.resident_bytes},
      {"error", error_json(report.error)},
      {"findings", array_json(report.findings, finding_json)},
      {"verified", report.verified},
      {"verify_differences", report.verify_differences},
  };
  // Paths and names of a process need not be UTF-8; a report must come out all the same.
  return document.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

ReportFile::ReportFile(std::string path) : path_(std::move(path)) {
  if (path_ == "-") return;
  struct stat info {};
  try {
    if (::stat(path_.c_str(), &info) == 0 && !S_ISREG(info.st_mode)) {
      // A pipe or a device is written as it is: renaming over it would replace it.
      if (S_ISDIR(info.st_mode)) throw Error(path_ + " is a directory", EISDIR);
      if (::access(path_.c_str(), W_OK) != 0) throw_system("write to {}", path_);
      return;
    }
    reserve();
  } catch (const Error& error) {
    throw Refused("report-unwritable", fmt::format("the report: {}", error.what()),
                  "name another file with --json, or make room; nothing was touched");
  }
}

ReportFile::~ReportFile() {
  if (!temporary_.empty()) ::unlink(temporary_.c_str());
}

void ReportFile::reserve() {
  const std::size_t slash = path_.rfind('/');
  const std::string folder = slash == std::string::npos ? "." : path_.substr(0, slash + 1);
  file_.reset(::open(folder.c_str(), O_TMPFILE | O_WRONLY | O_CLOEXEC, 0644));
  if (!file_.valid() && errno == EOPNOTSUPP) {  // a filesystem without files that have no name
    const std::string name = temporary_name(path_);
    file_ = open_file(name, O_WRONLY | O_CREAT | O_EXCL, 0644);
    temporary_ = name;
  }
  if (!file_.valid()) throw_system("make a file in {}", folder);
  const int code = ::posix_fallocate(file_.get(), 0, kReservedBytes);
  if (code == ENOSPC || code == EDQUOT) throw_errno(code, fmt::format("room in {}", folder));
}

void ReportFile::write(const std::string& text) {
  if (path_ == "-") {
    write_text(STDOUT_FILENO, text, "standard output");
    return;
  }
  if (!file_.valid()) {
    const UniqueFd fd = open_file(path_, O_WRONLY);
    write_text(fd.get(), text, path_);
    return;
  }
  write_text(file_.get(), text, path_);
  if (::ftruncate(file_.get(), static_cast<off_t>(text.size())) != 0) {
    throw_system("cut {} to its length", path_);
  }
  if (temporary_.empty()) {
    const std::string name = temporary_name(path_);
    if (::linkat(AT_FDCWD, fmt::format("/proc/self/fd/{}", file_.get()).c_str(), AT_FDCWD,
                 name.c_str(), AT_SYMLINK_FOLLOW) != 0) {
      throw_system("name the report {}", name);
    }
    temporary_ = name;
  }
  if (::rename(temporary_.c_str(), path_.c_str()) != 0) {
    throw_system("rename {} to {}", temporary_, path_);
  }
  temporary_.clear();
}

}  // namespace godwit
