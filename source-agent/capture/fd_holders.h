// Which other processes hold the same open files: what is shared beyond the process cannot move
// away with it. Rests on the links in /proc/*/fd and on kcmp(2).
#pragma once

#include <sys/types.h>

#include <map>
#include <optional>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "source-agent/capture/fd_facts.h"

namespace godwit {

struct FdHolder {
  pid_t pid = -1;
  int fd = -1;
  std::string describe() const;  // "process 12 (bash), fd 1"
};

class FdHolders {
 public:
  explicit FdHolders(pid_t host_pid) : host_pid_(host_pid) {}

  // kKnown: sockets accepted since the last look are nobody else's (in the blackout).
  enum class Sockets { kAll, kKnown };

  // Looks through every process, when one of `facts` was not looked for before. Costs about a
  // microsecond per descriptor of the host.
  void look_for(const std::vector<FdFacts*>& facts, Sockets sockets = Sockets::kAll);
  // Somebody else with the same pipe, socket or open file.
  std::optional<FdHolder> outside(const FdFacts& facts) const;

 private:
  // Descriptors of one link; in kcmp's order once somebody else was found to have that link.
  struct Candidates {
    std::vector<int> fds;
    bool sorted = false;
  };
  using Wanted = std::unordered_map<std::string, Candidates>;

  void scan_process(pid_t pid, Wanted& wanted);
  void compare_with(Candidates& candidates, pid_t pid, int fd);

  pid_t host_pid_;
  std::unordered_set<std::string> looked_for_;
  std::unordered_map<std::string, FdHolder> by_link_;  // pipes and sockets
  std::map<int, FdHolder> by_fd_;                      // open files of which the link tells nothing
};

// Threads that have a descriptor table of their own (unshare(CLONE_FILES)), by host tid.
std::vector<pid_t> threads_with_own_table(pid_t host_pid);

}  // namespace godwit
