// `migrate recover`: what agents that were killed left on this host.
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <fcntl.h>

#include <filesystem>
#include <optional>

#include "common/base/clock.h"
#include "common/base/human_text.h"
#include "common/base/log.h"
#include "common/kernel/agent_privileges.h"
#include "common/kernel/cgroup_fs.h"
#include "common/model/workload.h"
#include "common/network/addresses.h"
#include "common/remote/remote_task.h"
#include "source-agent/left_sockets.h"
#include "source-agent/lost_pages.h"
#include "source-agent/migration.h"
#include "source-agent/page_source.h"
#include "source-agent/session.h"

namespace godwit {
namespace {

RecoveryFacts find_facts(const JournalRecord& record) {
  RecoveryFacts facts;
  facts.agent_alive = is_alive(record.agent);
  facts.process_alive = is_alive(record.process);
  facts.group_exists = !record.cgroup_path.empty() && std::filesystem::exists(record.cgroup_path);
  if (facts.group_exists) {
    FreezerGroup group = FreezerGroup::adopt(record.cgroup_path);
    facts.group_frozen = group.freeze_asked();
    group.keep();
  }
  return facts;
}

void give_back_group(const RecoveryFacts& facts, const JournalRecord& record) {
  if (facts.group_exists) FreezerGroup::adopt(record.cgroup_path).give_back();
}

std::vector<proto::MovedAddress> moved_addresses(const JournalRecord& record) {
  std::vector<IpAddress> addresses;
  for (const std::string& text : record.addresses) {
    if (const auto address = IpAddress::from_text(text)) addresses.push_back(*address);
  }
  return describe_addresses(addresses);
}

// The task runs on here; the code that a killed agent left in it is taken out.
void bring_back(const RecoveryFacts& facts, const JournalRecord& record) {
  if (facts.process_alive) release_left_sockets(record.process.pid);
  give_back_group(facts, record);
  if (facts.process_alive) {
    RemoteTask task = RemoteTask::attach(record.process.pid);
    task.stop();
    task.detach();
  }
  // The destination may have said that they are there.
  announce_addresses(moved_addresses(record));
  remove_source_network(record);
}

// Never thawed: it runs elsewhere. Frozen, it can't have ended and its number be another's by now.
void end_source(const RecoveryFacts& facts, const JournalRecord& record) {
  if (facts.process_alive) ::kill(record.process.pid, SIGKILL);
  if (facts.group_exists) FreezerGroup::adopt(record.cgroup_path).discard();
  OutgoingAddresses addresses(record.migration_id);
  addresses.release(moved_addresses(record));
  addresses.finish();
  remove_source_network(record);
}

// The destination forgets what the source has acted on; if it doesn't hear of it, it does in time.
void say_settled(const JournalRecord& record) noexcept {
  try {
    ask_outcome(record, true);
  } catch (const std::exception& error) {
    log_info("migration={} {}", record.migration_id, error.what());
  }
}

// The process runs there, and pages of it are in the frozen copy here. False: still so.
bool serve_rest(const JournalRecord& record, std::int64_t timeout_ns,
                const std::function<void(const std::string&)>& progress) {
  constexpr int kTurnMs = 100;
  const KeyFolder keys = load_keys(record.keys_dir, "source");
  const std::string folder = fmt::format("/proc/{}/", record.process.pid);
  const UniqueFd memory = open_file(folder + "mem", O_RDONLY);
  const UniqueFd pagemap = open_file(folder + "pagemap", O_RDONLY);
  const PageSource source{.peer = parse_host_port(record.peer),
                          .keys = &keys,
                          .migration_id = record.migration_id,
                          .memory_fd = memory.get(),
                          .pagemap_fd = pagemap.get()};
  std::optional<Channel> control;
  std::optional<PageServerProcess> pages;
  const PageService service{control, pages};
  std::uint64_t missing = 0;
  const MissingSink sink = [&](const proto::MissingPages& news) { missing = news.missing_pages(); };
  const std::int64_t deadline_ns = monotonic_ns() + timeout_ns;
  for (;;) {
    try {
      if (resume_service_in_time(source, service, timeout_ns).complete) break;
      progress(fmt::format("{}: pid {} runs at {}, its missing pages follow from here",
                           record.migration_id, record.process.pid, record.peer));
      while (!take_missing_pages(service, sink)) wait_for_news(service, kTurnMs);
      break;
    } catch (const Error& error) {
      if (monotonic_ns() < deadline_ns) {
        ::usleep(kTurnMs * 1000);
        continue;
      }
      progress(fmt::format("{}: pid {} stays frozen, pages of it are missing at {}: {}",
                           record.migration_id, record.process.pid, record.peer, error.what()));
      return false;
    }
  }
  control->send_body(proto::Finish{});
  control->receive_body<proto::Finished>(monotonic_ns() + timeout_ns);
  return true;
}

// False when it stays in doubt.
bool ask_and_settle(const RecoveryFacts& facts, const JournalRecord& record,
                    std::int64_t timeout_ns,
                    const std::function<void(const std::string&)>& progress) {
  proto::Outcome outcome;
  try {
    outcome = ask_outcome(record);
  } catch (const Error& error) {
    progress(fmt::format("{}: pid {} stays frozen, {} can't be asked: {}", record.migration_id,
                         record.process.pid, record.peer, error.what()));
    return false;
  }
  if (outcome.kind() == proto::Outcome::RUNNING) {
    progress(fmt::format("{}: pid {} stays frozen, {} has not decided yet", record.migration_id,
                         record.process.pid, record.peer));
    return false;
  }
  const bool moved = outcome.kind() == proto::Outcome::COMMITTED;
  if (moved && outcome.misses_pages() && !serve_rest(record, timeout_ns, progress)) return false;
  moved ? end_source(facts, record) : bring_back(facts, record);
  if (moved) note_departure(record, outcome.host_pid());
  if (moved) say_settled(record);
  progress(fmt::format("{}: pid {} {}", record.migration_id, record.process.pid,
                       moved ? "has moved; its copy here was ended" : "runs on here"));
  if (outcome.lost_pages() > 0) {
    progress(fmt::format("{}: {} of it were given up at {}", record.migration_id,
                         count_text(outcome.lost_pages(), "page"), record.peer));
  }
  return true;
}

bool recover_one(const JournalRecord& record, std::int64_t timeout_ns,
                 const std::function<void(const std::string&)>& progress) {
  const RecoveryFacts facts = find_facts(record);
  const RecoveryStep step = decide_recovery(record, facts);
  switch (step) {
    case RecoveryStep::kLeaveAlone:
      return true;
    case RecoveryStep::kAsk:
      return ask_and_settle(facts, record, timeout_ns, progress);
    case RecoveryStep::kEndSource:
      end_source(facts, record);
      break;
    case RecoveryStep::kRollBack:
      bring_back(facts, record);
      break;
    default:
      give_back_group(facts, record);
      remove_source_network(record);
      break;
  }
  progress(fmt::format("{}: pid {}: {}", record.migration_id, record.process.pid, name_of(step)));
  return true;
}

// Another migration waits for it.
constexpr std::int64_t kQuietNs = 10'000'000'000;

// What was meant for its operator goes to the log; true when it is settled.
bool recover_quietly(const JournalFolder& folder, const JournalRecord& record) {
  try {
    if (!recover_one(record, kQuietNs,
                     [](const std::string& line) { log_info("recovered {}", line); })) {
      return false;
    }
    folder.remove(record);
    return true;
  } catch (const Error& error) {
    log_warning("recovering migration={}: {}", record.migration_id, error.what());
    return false;
  }
}

std::string unsettled_story(const MigrateOptions& options, const JournalRecord& record) {
  return fmt::format("pid {}: migration {} to {} was interrupted and is not settled", options.pid,
                     record.migration_id, record.peer);
}

bool is_of_this_process(const MigrateOptions& options, const JournalRecord& record) {
  return record.process.pid == options.pid && is_alive(record.process);
}

}  // namespace

void find_unsettled(const MigrateOptions& options, Findings& findings) {
  for (const JournalRecord& record : JournalFolder(options.state_dir).load_all("source").records) {
    if (is_alive(record.agent) || !is_of_this_process(options, record)) continue;
    if (decide_recovery(record, find_facts(record)) != RecoveryStep::kAsk) continue;
    refuse(findings, "in-doubt", fmt::format("pid {}", options.pid),
           unsettled_story(options, record), "run: migrate recover");
  }
}

void recover_before(const MigrateOptions& options) {
  if (!missing_privileges().empty()) return;  // preflight tells
  const JournalFolder folder(options.state_dir);
  for (const JournalRecord& record : folder.load_all("source").records) {
    if (is_alive(record.agent)) continue;
    const bool same_process = is_of_this_process(options, record);
    // Another destination that may not even answer is not this migration's business.
    const UniqueFd claim = folder.claim(record);
    if (!claim.valid()) continue;
    const bool asks = decide_recovery(record, find_facts(record)) == RecoveryStep::kAsk;
    if (asks && !same_process) continue;
    if (recover_quietly(folder, record) || !same_process) continue;
    throw Refused("in-doubt", unsettled_story(options, record), "run: migrate recover");
  }
}

bool run_recover(const MigrateOptions& options,
                 const std::function<void(const std::string&)>& progress) {
  if (const std::string missing = missing_privileges(); !missing.empty()) {
    throw Refused("agent-lacks-privilege", missing, "run it as root with its capabilities");
  }
  const JournalFolder folder(options.state_dir);
  bool settled = settle_lost_pages(options, progress);
  if (options.lost_pages != MigrateOptions::LostPages::kTell) return settled;
  const JournalFolder::Contents contents = folder.load_all("source");
  for (const std::string& broken : contents.broken) progress("cannot be read: " + broken);
  for (const JournalRecord& record : contents.records) {
    if (!options.migration_id.empty() && options.migration_id != record.migration_id) continue;
    if (is_alive(record.agent)) continue;
    const UniqueFd claim = folder.claim(record);
    if (!claim.valid()) continue;
    if (recover_one(record, options.reconnect_timeout_ns, progress)) {
      folder.remove(record);
    } else {
      settled = false;
    }
  }
  return settled;
}

}  // namespace godwit
