// The journal: what a migration has put into this host, for whoever cleans up after an agent that
// died. One small JSON file for each migration and role, /run/godwit/<id>-<role>.json, replaced as
// a whole (written beside it, renamed). It is written at changes of phase, outside of the blackout:
// it may lag behind.
//
// The journal never decides alone. Whether a tree may run is in its freezer; whether an agent or a
// process lives is asked of /proc, by the start time, which tells a reused pid.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "common/base/unique_fd.h"
#include "common/model/phase.h"

namespace godwit {

// A process that can't be confused with a later one of the same pid.
struct ProcessMark {
  pid_t pid = 0;
  std::uint64_t start_time_ticks = 0;
  friend bool operator==(const ProcessMark&, const ProcessMark&) = default;
};

struct JournalRecord {
  std::string migration_id;
  std::string role;  // source, destination
  State state = State::kConnecting;
  ProcessMark agent;
  ProcessMark process;      // on the source; at the destination the restored one, pid 0: none yet
  std::string cgroup_path;  // empty: not made yet
  std::string nft_table;    // likewise
  std::vector<std::string> addresses;  // added on this host, as "10.0.0.5/24 dev eth0"
  std::string peer;                    // source: ADDR:PORT of the destination
  std::string keys_dir;                // source: to ask the destination with
  bool misses_pages = false;  // post-copy: the source's copy has pages that the destination's lacks
  std::uint64_t lost_pages = 0;  // destination: given up by its operator
  // Of a registered workload: its registration (workload.h), at the destination as it is to be
  // there, and the folder that it belongs in. Empty: none.
  std::string workload;
  std::string registry;
  friend bool operator==(const JournalRecord&, const JournalRecord&) = default;
};

std::string journal_json(const JournalRecord& record);
// Throws Error saying what is wrong with the text.
JournalRecord parse_journal(const std::string& text);

// A directory of journals. Made when the first is written, mode 0700.
class JournalFolder {
 public:
  explicit JournalFolder(std::string dir) : dir_(std::move(dir)) {}

  // Throw Error naming the path.
  void write(const JournalRecord& record) const;
  void remove(const JournalRecord& record) const;  // fine when it is gone already

  // Every journal of the role, by migration id. A file that can't be read is in `broken`, with why.
  struct Contents {
    std::vector<JournalRecord> records;
    std::vector<std::string> broken;
  };
  Contents load_all(const std::string& role) const;
  // For whoever settles it: two at once would remove things under each other's hands. Waits for
  // another one; until it is closed, others wait. Invalid when the journal is gone: it is settled.
  UniqueFd claim(const JournalRecord& record) const;
  // Where the status of its migration is (status_page.h), which goes with the journal.
  std::string status_path_of(const JournalRecord& record) const;
  // Where it is, or would be.
  std::string path_of(const JournalRecord& record) const;

 private:
  std::string dir_;
};

// The mark of a running process; nothing when it is gone or a zombie.
std::optional<ProcessMark> try_mark_process(pid_t pid);
bool is_alive(const ProcessMark& mark);

// --- Recovery
// --------------------------------------------------------------------------------------

// What recovery found out about a record before it decides.
struct RecoveryFacts {
  bool agent_alive = false;
  bool process_alive = false;
  bool group_exists = false;
  bool group_frozen = false;  // or asked to be
};

enum class RecoveryStep {
  kLeaveAlone,  // its agent is at work
  kRollBack,    // thaw, move back, remove what was added: the source runs on
  kAsk,        // Commit may have been sent: frozen until the destination has said what became of it
  kEndSource,  // the destination is known to run it: end the frozen copy, remove what was added
  kCleanUp,    // no process left to decide about: remove what was added
  kDiscard,    // destination: never released: kill what was built, remove what was added
  kKeepRunning,  // destination: released: it runs on; remove what only the migration needed
};
std::string_view name_of(RecoveryStep step);

// Pure. `record.role` says which side's rules apply.
RecoveryStep decide_recovery(const JournalRecord& record, const RecoveryFacts& facts);

}  // namespace godwit
