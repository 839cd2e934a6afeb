#include "dest-agent/recovery.h"

#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <optional>

#include "common/base/error.h"
#include "common/base/log.h"
#include "common/base/unique_fd.h"
#include "common/kernel/cgroup_fs.h"
#include "common/kernel/pidfd.h"
#include "common/kernel/socket_options.h"
#include "common/kernel/tcp_repair.h"
#include "common/model/journal.h"
#include "common/model/workload.h"
#include "common/network/packet_hold.h"
#include "dest-agent/network.h"

namespace godwit {
namespace {

constexpr int kEndTimeoutMs = 5000;

// Throws Error when its journal is there and can't be read: then nothing may be said about it.
std::optional<JournalRecord> find_record(const JournalFolder& folder, const std::string& id) {
  JournalFolder::Contents contents = folder.load_all("destination");
  for (JournalRecord& record : contents.records) {
    if (record.migration_id == id) return std::move(record);
  }
  for (const std::string& broken : contents.broken) {
    if (broken.find(id) != std::string::npos) fail("{}", broken);
  }
  return std::nullopt;
}

struct ClaimedRecord {
  JournalRecord record;
  UniqueFd claim;
};

// The daemon settles what a session left behind while another session is asked about it.
std::optional<ClaimedRecord> claim_record(const JournalFolder& folder, const std::string& id) {
  const auto seen = find_record(folder, id);
  if (!seen) return std::nullopt;
  UniqueFd claim = folder.claim(*seen);
  auto record = find_record(folder, id);  // as whoever had it before left it
  if (!claim.valid() || !record) return std::nullopt;
  return ClaimedRecord{std::move(*record), std::move(claim)};
}

void end_process(const ProcessMark& mark) {
  const UniqueFd process(static_cast<int>(::syscall(SYS_pidfd_open, mark.pid, 0)));
  if (!process.valid() || !is_alive(mark)) return;
  ::syscall(SYS_pidfd_send_signal, process.get(), SIGKILL, nullptr, 0);
  pollfd wait{process.get(), POLLIN, 0};
  ::poll(&wait, 1, kEndTimeoutMs);
}

// A skeleton dies with its session, but a moment later. One that was released does not.
void await_end(const ProcessMark& mark) {
  constexpr int kDyingMs = 1000;
  const UniqueFd process(static_cast<int>(::syscall(SYS_pidfd_open, mark.pid, 0)));
  if (!process.valid() || !is_alive(mark)) return;
  pollfd wait{process.get(), POLLIN, 0};
  ::poll(&wait, 1, kDyingMs);
}

RecoveryFacts find_facts(const JournalRecord& record) {
  RecoveryFacts facts;
  facts.agent_alive = is_alive(record.agent);
  if (facts.agent_alive) return facts;  // its own affair: nothing is touched
  facts.group_exists = !record.cgroup_path.empty() && std::filesystem::exists(record.cgroup_path);
  if (facts.group_exists) {
    FreezerGroup group = FreezerGroup::adopt(record.cgroup_path);
    facts.group_frozen = group.freeze_asked();
    group.keep();
  }
  // A thawed one may run already, and its packets be held for nobody.
  if (facts.group_exists && !facts.group_frozen) remove_leftover_rules(record.migration_id);
  // A frozen one was never thawed and does not end by itself: a source in doubt, and its clients,
  // do not wait for that.
  const bool dying = record.process.pid != 0 && record.state != State::kCommitted;
  if (dying && !facts.group_frozen) await_end(record.process);
  facts.process_alive = record.process.pid != 0 && is_alive(record.process);
  return facts;
}

// Streams that had left repair mode would say goodbye when their process ends, in the name of the
// copy that runs on at the source.
void silence_streams(const ProcessMark& mark) {
  const UniqueFd process = open_pidfd(mark.pid);
  const std::string directory = fmt::format("/proc/{}/fd", mark.pid);
  for (const auto& entry : std::filesystem::directory_iterator(directory)) {
    std::error_code gone;
    const std::string target = std::filesystem::read_symlink(entry.path(), gone);
    if (gone || !target.starts_with("socket:")) continue;
    try {
      const UniqueFd socket = copy_fd_of(process, std::stoi(entry.path().filename()));
      const bool tcp = int_socket_option(socket.get(), SOL_SOCKET, SO_PROTOCOL) == IPPROTO_TCP;
      if (tcp && tcp_facts(socket.get()).state != TcpState::kListen) {
        enter_tcp_repair(socket.get());
      }
    } catch (const Error& error) {
      log_warning("pid={} {}: {}", mark.pid, entry.path().string(), error.what());
    }
  }
}

void discard(const JournalRecord& record, const RecoveryFacts& facts) {
  try {
    if (facts.process_alive) silence_streams(record.process);
  } catch (const std::exception& error) {
    log_warning("migration={} silencing streams: {}", record.migration_id, error.what());
  }
  if (facts.group_exists) {
    FreezerGroup::adopt(record.cgroup_path).discard();  // never thawed: it must not run a moment
  }
  // After it: the rules keep the host from answering for sockets that are gone.
  remove_network(record, true);
}

void keep_running(const JournalFolder& folder, JournalRecord record, const RecoveryFacts& facts) {
  if (facts.group_exists) FreezerGroup::adopt(record.cgroup_path).give_back();
  remove_network(record, false);
  record.state = State::kCommitted;
  record.cgroup_path.clear();
  record.nft_table.clear();
  record.addresses.clear();  // this host's own now
  note_arrival(record, WorkloadFolder::Sync::kNow);
  record.workload.clear();  // whoever unregisters it now means it
  folder.write(record);
}

// A source that has not confirmed the end may ask for so long.
bool recently_written(const JournalFolder& folder, const JournalRecord& record) {
  constexpr auto kRemembered = std::chrono::hours(24);
  std::error_code error;
  const auto written = std::filesystem::last_write_time(folder.path_of(record), error);
  return !error && std::filesystem::file_time_type::clock::now() - written < kRemembered;
}

// Returns what it came to. The caller has claimed the journal.
RecoveryStep recover(const JournalFolder& folder, const JournalRecord& record) {
  const RecoveryFacts facts = find_facts(record);
  const RecoveryStep step = decide_recovery(record, facts);
  if (step == RecoveryStep::kLeaveAlone) return step;
  log_info("recovering migration={} step={}", record.migration_id, name_of(step));
  if (step == RecoveryStep::kKeepRunning) {
    keep_running(folder, record, facts);
  } else if (record.state == State::kCommitted && recently_written(folder, record)) {
    discard(record, facts);  // it has ended by itself; a source in doubt must still hear of it
  } else {
    discard(record, facts);
    folder.remove(record);
  }
  return step;
}

}  // namespace

void recover_destination(const std::string& state_dir, const std::string& migration_id) noexcept {
  try {
    const JournalFolder folder(state_dir);
    if (const auto journal = claim_record(folder, migration_id)) recover(folder, journal->record);
  } catch (const std::exception& error) {
    log_error("recovering migration={}: {}", migration_id, error.what());
  }
}

void recover_destinations(const std::string& state_dir) noexcept {
  try {
    const JournalFolder folder(state_dir);
    const JournalFolder::Contents contents = folder.load_all("destination");
    for (const std::string& broken : contents.broken) log_warning("journal: {}", broken);
    for (const JournalRecord& record : contents.records) {
      recover_destination(state_dir, record.migration_id);
    }
  } catch (const std::exception& error) {
    log_error("recovering: {}", error.what());
  }
}

bool is_running(const std::string& state_dir, const std::string& migration_id) noexcept {
  try {
    const auto record = find_record(JournalFolder(state_dir), migration_id);
    return record && record->state == State::kCommitted && is_alive(record->process);
  } catch (const std::exception& error) {
    log_error("migration={}: {}", migration_id, error.what());
    return true;  // what is held stays held
  }
}

proto::Outcome settle_outcome(const std::string& state_dir, const proto::OutcomeRequest& asked) {
  const JournalFolder folder(state_dir);
  proto::Outcome outcome;
  outcome.set_kind(proto::Outcome::UNKNOWN);
  const auto journal = claim_record(folder, asked.migration_id());
  if (!journal) return outcome;
  const JournalRecord& record = journal->record;
  // Fencing: a session that still waits for a Commit on a lost connection must never get it.
  if (record.state != State::kCommitted) end_process(record.agent);
  const RecoveryStep step = recover(folder, record);
  if (step == RecoveryStep::kKeepRunning || record.state == State::kCommitted) {
    outcome.set_kind(proto::Outcome::COMMITTED);
    outcome.set_host_pid(record.process.pid);
    outcome.set_misses_pages(record.misses_pages);
    outcome.set_lost_pages(record.lost_pages);
    if (asked.settled()) folder.remove(record);
  } else if (step == RecoveryStep::kLeaveAlone) {
    outcome.set_kind(proto::Outcome::RUNNING);  // it does not end: it may still commit
  }
  return outcome;
}

}  // namespace godwit
