#include "source-agent/workloads.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <ostream>

#include "common/base/error.h"
#include "common/base/human_text.h"
#include "common/base/printable.h"
#include "common/kernel/proc_stat.h"
#include "source-agent/workload_options.h"

namespace godwit {
namespace {

using Json = nlohmann::ordered_json;

constexpr const char* kRegisterAnew = "migrate register, or migrate unregister";

Refused gone(const Workload& workload) {
  const bool rebooted = workload.boot_id != this_boot();
  return Refused("workload-gone",
                 fmt::format("workload {}: pid {} ({}) {}", workload.name, workload.process.pid,
                             printable(workload.program),
                             rebooted ? "was of an earlier boot of this host" : "has ended"),
                 "register the process that took its place, or unregister it");
}

void refuse_other_registration(const WorkloadFolder& folder, const MigrateOptions& options,
                               const ProcessMark& process) {
  for (const Workload& other : folder.load_all().workloads) {
    const Whereabouts where = whereabouts_of(other);
    if (other.name == options.workload) {
      if (where == Whereabouts::kAway) {
        throw Refused("workload-away",
                      fmt::format("workload {} is at {}", other.name, printable(other.away->to)),
                      "let it come back, choose another name, or unregister it first");
      }
      if (where == Whereabouts::kHere && other.process != process) {
        throw Refused("workload-name-taken",
                      fmt::format("workload {} is pid {} ({})", other.name, other.process.pid,
                                  printable(other.program)),
                      "choose another name, or unregister it first");
      }
    } else if (where == Whereabouts::kHere && other.process == process) {
      throw Refused("workload-known",
                    fmt::format("pid {} is registered as {}", process.pid, other.name),
                    "unregister it under that name first");
    }
  }
}

Json listed_json(const Workload& workload) {
  Json json = Json::parse(workload_json(workload));
  json.erase("version");
  json["whereabouts"] = name_of(whereabouts_of(workload));
  return json;
}

std::string place_text(const Workload& workload) {
  switch (whereabouts_of(workload)) {
    case Whereabouts::kAway:
      return fmt::format("away, at {} as pid {}", printable(workload.away->to), workload.away->pid);
    case Whereabouts::kGone:
      return fmt::format("gone: pid {} runs no more", workload.process.pid);
    case Whereabouts::kHere:
      break;
  }
  std::string text = fmt::format("here, pid {}", workload.process.pid);
  if (!workload.home.empty()) {
    text += fmt::format(", home is {} at {}", printable(workload.home),
                        printable(workload.home_address));
  }
  return text;
}

std::string listed_text(const Workload& workload) {
  std::string text =
      fmt::format("{} ({}): {}", workload.name, printable(workload.program), place_text(workload));
  if (workload.priority != 0) text += fmt::format(", priority {}", workload.priority);
  for (const std::string& option : workload.options) text += " " + printable(option);
  return text;
}

}  // namespace

int run_register(const MigrateOptions& options, std::ostream& out) {
  const auto process = try_mark_process(options.pid);
  if (!process) {
    throw Refused("no-such-pid", fmt::format("pid {}: there is no such process", options.pid),
                  "look the id up again");
  }
  const WorkloadFolder folder(options.registry);
  refuse_other_registration(folder, options, *process);
  const std::optional<Workload> before = folder.find(options.workload);
  Workload workload;
  workload.name = options.workload;
  workload.priority = options.priority;
  workload.options = options.registered_options;
  workload.program = read_proc_stat(options.pid).comm;
  workload.process = *process;
  workload.boot_id = this_boot();
  if (before) {  // of another process that stood here for it, as after a restart
    workload.home = before->home;
    workload.home_address = before->home_address;
  }
  folder.save(workload);
  out << fmt::format("registered {} ({}), pid {}\n", workload.name, printable(workload.program),
                     options.pid);
  return 0;
}

int run_unregister(const MigrateOptions& options, std::ostream& out) {
  const WorkloadFolder folder(options.registry);
  if (!folder.find(options.workload)) {
    throw Refused("workload-unknown", fmt::format("no workload {} is registered", options.workload),
                  "migrate registered says which are");
  }
  folder.remove(options.workload);
  out << fmt::format("unregistered {}\n", options.workload);
  return 0;
}

int run_registered(const MigrateOptions& options, std::ostream& out) {
  const WorkloadFolder::Contents contents = WorkloadFolder(options.registry).load_all();
  Json list = Json::array();
  for (const Workload& workload : contents.workloads) {
    options.as_json ? list.push_back(listed_json(workload))
                    : void(out << listed_text(workload) << '\n');
  }
  if (options.as_json) out << list.dump(2, ' ', false, Json::error_handler_t::replace) << '\n';
  if (!contents.broken.empty()) {
    throw Error(contents.broken.front(), 0, "the others are told; register it anew");
  }
  return 0;
}

MigrateOptions with_registration(MigrateOptions options) {
  if (options.workload.empty()) return options;
  const std::optional<Workload> workload = WorkloadFolder(options.registry).find(options.workload);
  if (!workload) {
    throw Refused("workload-unknown", fmt::format("no workload {} is registered", options.workload),
                  "migrate registered says which are");
  }
  const Whereabouts where = whereabouts_of(*workload);
  if (where == Whereabouts::kAway) {
    throw Refused(
        "workload-away",
        fmt::format("workload {} is at {} already", workload->name, printable(workload->away->to)),
        "migrate it from there");
  }
  if (where == Whereabouts::kGone) throw gone(*workload);
  apply_registered_options(workload->options, options);
  if (options.returning && workload->home.empty()) {
    throw Refused("workload-at-home", fmt::format("workload {} was not sent here", workload->name),
                  "name a destination with --to");
  }
  if (options.to.host.empty()) options.to = parse_host_port(workload->home_address);
  options.pid = workload->process.pid;
  options.registered = *workload;
  return options;
}

proto::TravellingWorkload travelling_workload(const MigrateOptions& options) {
  proto::TravellingWorkload travels;
  travels.set_name(options.registered->name);
  travels.set_priority(options.registered->priority);
  for (const std::string& option : options.registered->options) travels.add_options(option);
  travels.set_program(printable(options.registered->program));
  travels.set_returning(options.returning);
  travels.set_home_address(options.home_address);
  return travels;
}

void check_still_registered(const MigrateOptions& options) {
  if (options.registered && !is_alive(options.registered->process)) throw gone(*options.registered);
}

}  // namespace godwit
