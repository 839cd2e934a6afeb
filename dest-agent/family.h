// The tasks that came here with a migration, for one whose pages are lost: the process, and what it
// has forked since. Read from /proc (proc(5)) when it is asked for; whoever has gone meanwhile is
// left out.
#pragma once

#include <sys/types.h>

#include <optional>
#include <string>
#include <vector>

#include "common/model/journal.h"

namespace godwit {

class Family {
 public:
  // The process lives still, or has ended, and others of its pid namespace have not.
  explicit Family(const ProcessMark& process);

  struct Thread {
    pid_t host_pid = 0;  // of its process
    pid_t host_tid = 0;
    std::string name;
    bool waits = false;  // as far as the kernel tells
  };
  // By the number that its own pid namespace gives it.
  std::optional<Thread> find(pid_t inner_tid) const;
  // Ends them all, with `others` (host pids); how many there were. Without waiting for what does
  // not end: some seconds at most.
  std::size_t end(std::vector<pid_t> others) const;

 private:
  std::vector<pid_t> members() const;
  bool is_namespace_of_its_own() const;

  ProcessMark process_;
  std::string namespace_;  // its pid namespace, as the link in /proc says; empty: not known
};

}  // namespace godwit
