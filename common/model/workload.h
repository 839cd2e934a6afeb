// A registered workload: a process that an operator wants moved with its host's others (`migrate
// drain`), under a name that stays when it moves. One small JSON file for each in a folder on disk,
// replaced as a whole and synced, so that a host that boots again knows what it sent away.
//
// A process is named by its id, its start time and the boot that both are of: an id that was given
// again, or that counts from a later boot, is never taken for it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/base/unique_fd.h"
#include "common/model/journal.h"
#include "proto/control.pb.h"

namespace godwit {

struct Workload {
  // Where it went from here.
  struct Away {
    std::string to;  // ADDR:PORT of the dest-agent
    pid_t pid = 0;   // as the host there sees it
    std::int64_t unix_s = 0;
    friend bool operator==(const Away&, const Away&) = default;
  };

  std::string name;
  int priority = 0;                  // higher ones move first
  std::vector<std::string> options;  // of `migrate`, each as one word: "--mode=pre"
  std::string program;               // its name, for people
  ProcessMark process;               // pid 0 while it is away
  std::string boot_id;               // that `process` is of
  std::string home;                  // the host that sent it here; empty: it is at home
  std::string home_address;          // of the dest-agent there
  std::optional<Away> away;
  friend bool operator==(const Workload&, const Workload&) = default;
};

enum class Whereabouts { kHere, kAway, kGone };  // gone: its process has ended, or the host booted
std::string_view name_of(Whereabouts whereabouts);
Whereabouts whereabouts_of(const Workload& workload);

// Letters, digits, '.', '_', '-', at most 64, none of the last three first: it becomes a file's
// name, also on hosts that it comes to.
bool is_workload_name(std::string_view name);

std::string workload_json(const Workload& workload);
// Throws Error saying what is wrong with the text.
Workload parse_workload(const std::string& text);

// This boot of this kernel (random(4), /proc/sys/kernel/random/boot_id).
std::string this_boot();

// What `travels` becomes on the host that it comes to from `home`. `known`: what that host has
// under its name; one that comes back to where it is registered as away is again what it was there.
Workload arrived_workload(const proto::TravellingWorkload& travels, const std::string& home,
                          const std::string& home_address, const std::optional<Workload>& known);

class WorkloadFolder {
 public:
  explicit WorkloadFolder(std::string dir) : dir_(std::move(dir)) {}

  // kLater: there at once, on disk when the kernel comes to it.
  enum class Sync { kNow, kLater };
  // Makes the folder, mode 0700, when it is missing. Throw Error naming the path.
  void save(const Workload& workload, Sync sync = Sync::kNow) const;
  void remove(const std::string& name) const;  // fine when it is gone already

  // Nothing when there is none. Throws Error when it can't be read.
  std::optional<Workload> find(const std::string& name) const;
  // By priority, the highest first, then by name. A file that can't be read is in `broken`.
  struct Contents {
    std::vector<Workload> workloads;
    std::vector<std::string> broken;
  };
  Contents load_all() const;
  // For whoever moves them all: one at a time. Invalid: somebody else is at it.
  UniqueFd try_claim() const;

  const std::string& dir() const { return dir_; }

 private:
  std::string path_of(const std::string& name) const;
  void make() const;

  std::string dir_;
};

// The process that the journal is about has moved to its peer, where it is `pid_there`: noted in
// the registration that the journal names, if it names one and it still means that process.
void note_departure(const JournalRecord& record, pid_t pid_there);
// The process that the journal is about was released on this host: registered as the journal says.
void note_arrival(const JournalRecord& record, WorkloadFolder::Sync sync);

}  // namespace godwit
