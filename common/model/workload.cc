#include "common/model/workload.h"

#include <sys/file.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <ctime>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "common/base/error.h"
#include "common/base/scope_exit.h"

namespace godwit {
namespace {

using Json = nlohmann::ordered_json;

constexpr int kVersion = 1;
constexpr std::size_t kNameCharactersMax = 64;
constexpr std::string_view kSuffix = ".workload";

Json away_json(const std::optional<Workload::Away>& away) {
  if (!away) return nullptr;
  return Json{{"to", away->to}, {"pid", away->pid}, {"unix_s", away->unix_s}};
}

void sync_folder(const std::string& dir) {
  const UniqueFd folder = open_file(dir, O_RDONLY | O_DIRECTORY);
  if (::fsync(folder.get()) != 0) throw_system("sync {}", dir);
}

}  // namespace

std::string_view name_of(Whereabouts whereabouts) {
  switch (whereabouts) {
    case Whereabouts::kHere:
      return "here";
    case Whereabouts::kAway:
      return "away";
    case Whereabouts::kGone:
      return "gone";
  }
  return "?";
}

Whereabouts whereabouts_of(const Workload& workload) {
  if (workload.away) return Whereabouts::kAway;
  const bool alive = workload.boot_id == this_boot() && is_alive(workload.process);
  return alive ? Whereabouts::kHere : Whereabouts::kGone;
}

bool is_workload_name(std::string_view name) {
  const auto is_plain = [](char each) {
    return (each >= 'a' && each <= 'z') || (each >= 'A' && each <= 'Z') ||
           (each >= '0' && each <= '9');
  };
  if (name.empty() || name.size() > kNameCharactersMax || !is_plain(name.front())) return false;
  return std::all_of(name.begin(), name.end(), [&](char each) {
    return is_plain(each) || each == '.' || each == '_' || each == '-';
  });
}

std::string workload_json(const Workload& workload) {
  const Json json{{"version", kVersion},
                  {"name", workload.name},
                  {"priority", workload.priority},
                  {"options", workload.options},
                  {"program", workload.program},
                  {"pid", workload.process.pid},
                  {"start_time_ticks", workload.process.start_time_ticks},
                  {"boot_id", workload.boot_id},
                  {"home", workload.home},
                  {"home_address", workload.home_address},
                  {"away", away_json(workload.away)}};
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

Workload parse_workload(const std::string& text) try {
  const Json json = Json::parse(text);
  const int version = json.at("version").get<int>();
  if (version != kVersion)
    fail("a registration of version {}, {} is known here", version, kVersion);
  Workload workload;
  workload.name = json.at("name").get<std::string>();
  if (!is_workload_name(workload.name)) fail("a registration under no name that can be one");
  workload.priority = json.at("priority").get<int>();
  workload.options = json.at("options").get<std::vector<std::string>>();
  workload.program = json.at("program").get<std::string>();
  workload.process.pid = json.at("pid").get<pid_t>();
  workload.process.start_time_ticks = json.at("start_time_ticks").get<std::uint64_t>();
  workload.boot_id = json.at("boot_id").get<std::string>();
  workload.home = json.at("home").get<std::string>();
  workload.home_address = json.at("home_address").get<std::string>();
  if (const Json& away = json.at("away"); !away.is_null()) {
    workload.away = Workload::Away{away.at("to").get<std::string>(), away.at("pid").get<pid_t>(),
                                   away.at("unix_s").get<std::int64_t>()};
  }
  return workload;
} catch (const nlohmann::json::exception& error) {
  fail("no registration: {}", error.what());
}

std::string this_boot() {
  std::string id = read_file("/proc/sys/kernel/random/boot_id");
  while (!id.empty() && id.back() == '\n') id.pop_back();
  return id;
}

Workload arrived_workload(const proto::TravellingWorkload& travels, const std::string& home,
                          const std::string& home_address, const std::optional<Workload>& known) {
  Workload workload;
  workload.name = travels.name();
  workload.priority = travels.priority();
  workload.options.assign(travels.options().begin(), travels.options().end());
  workload.program = travels.program();
  if (!travels.returning()) {
    workload.home = home;
    workload.home_address = home_address;
  } else if (known && known->away) {
    workload.home = known->home;
    workload.home_address = known->home_address;
  }
  return workload;
}

std::string WorkloadFolder::path_of(const std::string& name) const {
  return fmt::format("{}/{}{}", dir_, name, kSuffix);
}

void WorkloadFolder::make() const {
  std::error_code error;
  const bool made = std::filesystem::create_directories(dir_, error);
  if (error) throw_errno(error.value(), fmt::format("make the folder of registrations {}", dir_));
  if (made && ::chmod(dir_.c_str(), 0700) != 0) throw_system("chmod {}", dir_);
}

void WorkloadFolder::save(const Workload& workload, Sync sync) const {
  make();
  const std::string path = path_of(workload.name);
  const std::string temporary = fmt::format("{}.{}.tmp", path, ::getpid());
  ScopeExit remove([&temporary] { ::unlink(temporary.c_str()); });
  write_file(temporary, workload_json(workload));
  if (sync == Sync::kNow) {
    const UniqueFd written = open_file(temporary, O_RDONLY);
    if (::fsync(written.get()) != 0) throw_system("sync {}", temporary);
  }
  if (::rename(temporary.c_str(), path.c_str()) != 0) {
    throw_system("rename {} to {}", temporary, path);
  }
  remove.dismiss();
  if (sync == Sync::kNow) sync_folder(dir_);
}

void WorkloadFolder::remove(const std::string& name) const {
  const std::string path = path_of(name);
  if (::unlink(path.c_str()) != 0 && errno != ENOENT) throw_system("remove {}", path);
  sync_folder(dir_);
}

std::optional<Workload> WorkloadFolder::find(const std::string& name) const {
  const std::string path = path_of(name);
  try {
    Workload workload = parse_workload(read_file(path));
    if (workload.name != name) fail("it is about {}", workload.name);
    return workload;
  } catch (const Error& error) {
    if (error.code() == ENOENT) return std::nullopt;
    throw error.in(path);
  }
}

WorkloadFolder::Contents WorkloadFolder::load_all() const {
  Contents contents;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(dir_, error)) {
    const std::string file = entry.path().filename();
    if (!file.ends_with(kSuffix)) continue;
    try {
      if (auto found = find(file.substr(0, file.size() - kSuffix.size()))) {
        contents.workloads.push_back(std::move(*found));
      }
    } catch (const Error& broken) {
      contents.broken.emplace_back(broken.what());
    }
  }
  if (error && error.value() != ENOENT) {
    throw_errno(error.value(), fmt::format("read the folder of registrations {}", dir_));
  }
  std::sort(contents.workloads.begin(), contents.workloads.end(),
            [](const Workload& a, const Workload& b) {
              return a.priority != b.priority ? a.priority > b.priority : a.name < b.name;
            });
  return contents;
}

UniqueFd WorkloadFolder::try_claim() const {
  make();
  UniqueFd claim = open_file(dir_ + "/drain.lock", O_RDWR | O_CREAT, 0600);
  if (::flock(claim.get(), LOCK_EX | LOCK_NB) == 0) return claim;
  if (errno != EWOULDBLOCK) throw_system("lock {}/drain.lock", dir_);
  return UniqueFd();
}

void note_departure(const JournalRecord& record, pid_t pid_there) {
  if (record.workload.empty()) return;
  const WorkloadFolder folder(record.registry);
  std::optional<Workload> workload = folder.find(parse_workload(record.workload).name);
  if (!workload || workload->process != record.process) return;
  workload->process = {};
  workload->away = Workload::Away{record.peer, pid_there, ::time(nullptr)};
  folder.save(*workload);
}

void note_arrival(const JournalRecord& record, WorkloadFolder::Sync sync) {
  if (record.workload.empty()) return;
  Workload workload = parse_workload(record.workload);
  workload.process = record.process;
  workload.boot_id = this_boot();
  WorkloadFolder(record.registry).save(workload, sync);
}

}  // namespace godwit
