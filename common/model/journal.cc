#include "common/model/journal.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "common/base/error.h"
#include "common/base/scope_exit.h"
#include "common/kernel/proc_stat.h"

namespace godwit {
namespace {

using Json = nlohmann::ordered_json;

constexpr int kVersion = 1;
constexpr std::string_view kSuffix = ".json";

Json mark_json(const ProcessMark& mark) {
  return Json{{"pid", mark.pid}, {"start_time_ticks", mark.start_time_ticks}};
}

ProcessMark parse_mark(const Json& json) {
  return {json.at("pid").get<pid_t>(), json.at("start_time_ticks").get<std::uint64_t>()};
}

void make_folder(const std::string& dir) {
  std::error_code error;
  const bool made = std::filesystem::create_directories(dir, error);
  if (error) throw_errno(error.value(), fmt::format("make the state folder {}", dir));
  if (made && ::chmod(dir.c_str(), 0700) != 0) throw_system("chmod {}", dir);
}

RecoveryStep decide_for_source(const JournalRecord& record, const RecoveryFacts& facts) {
  if (!facts.process_alive) return RecoveryStep::kCleanUp;
  switch (record.state) {
    case State::kCompleted:
      return RecoveryStep::kEndSource;
    case State::kRefused:
    case State::kRollingBack:
    case State::kRolledBack:
      return RecoveryStep::kRollBack;  // decided already: whatever is left only has to go
    default:
      break;
  }
  // The tree is frozen right before Commit is sent and for nothing else, so the freezer tells what
  // the journal, which may lag behind, does not. A thawed one never let go of the decision, or has
  // had the answer that the destination doesn't run it.
  return facts.group_frozen ? RecoveryStep::kAsk : RecoveryStep::kRollBack;
}

RecoveryStep decide_for_destination(const RecoveryFacts& facts) {
  if (!facts.process_alive) return RecoveryStep::kCleanUp;
  // The write that thaws the group is the commit: nothing else decides. A process in no group of
  // its own was released and moved out before its agent died.
  if (facts.group_exists && facts.group_frozen) return RecoveryStep::kDiscard;
  return RecoveryStep::kKeepRunning;
}

}  // namespace

std::string journal_json(const JournalRecord& record) {
  const Json json{{"version", kVersion},
                  {"migration_id", record.migration_id},
                  {"role", record.role},
                  {"state", name_of(record.state)},
                  {"agent", mark_json(record.agent)},
                  {"process", mark_json(record.process)},
                  {"cgroup_path", record.cgroup_path},
                  {"nft_table", record.nft_table},
                  {"addresses", record.addresses},
                  {"peer", record.peer},
                  {"keys_dir", record.keys_dir},
                  {"misses_pages", record.misses_pages},
                  {"lost_pages", record.lost_pages},
                  {"workload", record.workload},
                  {"registry", record.registry}};
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

JournalRecord parse_journal(const std::string& text) try {
  const Json json = Json::parse(text);
  const int version = json.at("version").get<int>();
  if (version != kVersion) fail("a journal of version {}, {} is known here", version, kVersion);
  const std::string state_name = json.at("state").get<std::string>();
  const std::optional<State> state = state_from_name(state_name);
  if (!state) fail("a journal with the unknown state '{}'", state_name);
  JournalRecord record;
  record.migration_id = json.at("migration_id").get<std::string>();
  record.role = json.at("role").get<std::string>();
  record.state = *state;
  record.agent = parse_mark(json.at("agent"));
  record.process = parse_mark(json.at("process"));
  record.cgroup_path = json.at("cgroup_path").get<std::string>();
  record.nft_table = json.at("nft_table").get<std::string>();
  record.addresses = json.at("addresses").get<std::vector<std::string>>();
  record.peer = json.at("peer").get<std::string>();
  record.keys_dir = json.at("keys_dir").get<std::string>();
  record.misses_pages = json.at("misses_pages").get<bool>();
  record.lost_pages = json.value("lost_pages", std::uint64_t{0});
  record.workload = json.value("workload", std::string());
  record.registry = json.value("registry", std::string());
  return record;
} catch (const nlohmann::json::exception& error) {
  fail("no journal: {}", error.what());
}

std::string JournalFolder::path_of(const JournalRecord& record) const {
  return fmt::format("{}/{}-{}{}", dir_, record.migration_id, record.role, kSuffix);
}

void JournalFolder::write(const JournalRecord& record) const {
  const std::string path = path_of(record);
  const std::string temporary = fmt::format("{}.{}.tmp", path, ::getpid());
  if (::access(dir_.c_str(), F_OK) != 0) make_folder(dir_);
  ScopeExit remove([&temporary] { ::unlink(temporary.c_str()); });
  write_file(temporary, journal_json(record));
  if (::rename(temporary.c_str(), path.c_str()) != 0)
    throw_system("rename {} to {}", temporary, path);
  remove.dismiss();
}

void JournalFolder::remove(const JournalRecord& record) const {
  const std::string path = path_of(record);
  ::unlink(status_path_of(record).c_str());
  if (::unlink(path.c_str()) != 0 && errno != ENOENT) throw_system("remove {}", path);
  // Of one who was killed while it wrote.
  const std::string beginning = path + ".";
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(dir_, error)) {
    const std::string& each = entry.path().native();
    if (each.starts_with(beginning) && each.ends_with(".tmp")) ::unlink(each.c_str());
  }
}

std::string JournalFolder::status_path_of(const JournalRecord& record) const {
  return fmt::format("{}/{}-{}.status", dir_, record.migration_id, record.role);
}

UniqueFd JournalFolder::claim(const JournalRecord& record) const {
  const std::string path = path_of(record);
  for (;;) {
    UniqueFd journal(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    if (!journal.valid()) {
      if (errno == ENOENT) return journal;
      throw_system("open {}", path);
    }
    while (::flock(journal.get(), LOCK_EX) != 0) {
      if (errno != EINTR) throw_system("flock {}", path);
    }
    // Replaced or removed while we waited?
    struct stat held {};
    struct stat now {};
    if (::fstat(journal.get(), &held) != 0) throw_system("stat {}", path);
    const bool there = ::stat(path.c_str(), &now) == 0;
    if (there && held.st_ino == now.st_ino) return journal;
  }
}

JournalFolder::Contents JournalFolder::load_all(const std::string& role) const {
  Contents contents;
  const std::string ending = fmt::format("-{}{}", role, kSuffix);
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(dir_, error)) {
    const std::string path = entry.path();
    if (!path.ends_with(ending)) continue;
    try {
      JournalRecord record = parse_journal(read_file(path));
      if (path_of(record) != path) fail("it is about {}", path_of(record));
      contents.records.push_back(std::move(record));
    } catch (const Error& broken) {
      // Removed by its agent since we listed it.
      if (broken.code() != ENOENT) contents.broken.push_back(path + ": " + broken.what());
    }
  }
  if (error && error.value() != ENOENT) {
    throw_errno(error.value(), fmt::format("read the state folder {}", dir_));
  }
  std::sort(contents.records.begin(), contents.records.end(),
            [](const auto& a, const auto& b) { return a.migration_id < b.migration_id; });
  return contents;
}

std::optional<ProcessMark> try_mark_process(pid_t pid) {
  if (pid <= 0) return std::nullopt;
  try {
    const ProcStat stat = read_proc_stat(pid);
    if (stat.state == 'Z' || stat.state == 'X') return std::nullopt;
    return ProcessMark{pid, stat.start_time_ticks};
  } catch (const Error& error) {
    if (error.code() == ENOENT || error.code() == ESRCH) return std::nullopt;
    throw;
  }
}

bool is_alive(const ProcessMark& mark) {
  const std::optional<ProcessMark> now = try_mark_process(mark.pid);
  return now && *now == mark;
}

std::string_view name_of(RecoveryStep step) {
  switch (step) {
    case RecoveryStep::kLeaveAlone:
      return "leave alone";
    case RecoveryStep::kRollBack:
      return "roll back";
    case RecoveryStep::kAsk:
      return "ask the destination";
    case RecoveryStep::kEndSource:
      return "end the source's copy";
    case RecoveryStep::kCleanUp:
      return "clean up";
    case RecoveryStep::kDiscard:
      return "discard what was built";
    case RecoveryStep::kKeepRunning:
      return "keep it running";
  }
  return "?";
}

RecoveryStep decide_recovery(const JournalRecord& record, const RecoveryFacts& facts) {
  if (facts.agent_alive) return RecoveryStep::kLeaveAlone;
  return record.role == "destination" ? decide_for_destination(facts)
                                      : decide_for_source(record, facts);
}

}  // namespace godwit
