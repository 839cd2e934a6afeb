// The nursery: a running godwit-init from which the skeleton is cloned.
//
// It is made in the namespaces that the restored process will live in: always a time namespace of
// its own (so that CLOCK_MONOTONIC and CLOCK_BOOTTIME go on), and a pid and mount namespace with
// the right /proc when the process id is taken on this host. Until let_live() it dies with the
// agent.
#pragma once

#include <sys/types.h>

#include <optional>
#include <string>

#include "common/base/unique_fd.h"
#include "common/kernel/time_namespace.h"
#include "common/remote/remote_task.h"

namespace godwit {

struct NurseryOptions {
  bool own_pid_namespace = false;
  TimeOffsets time_offsets;
  int agent_pidfd = 255;  // the number under which skeletons find a pidfd of this process
  std::string program;    // path of godwit-init
  std::string group;      // folder of the control group that skeletons are born in
};

class Nursery {
 public:
  // Throws Error. The calling process's later children are in the new time namespace as well.
  explicit Nursery(const NurseryOptions& options);
  Nursery(const Nursery&) = delete;
  Nursery& operator=(const Nursery&) = delete;
  ~Nursery();  // kills and reaps it, unless let_live()

  pid_t host_pid() const { return host_pid_; }

  // A stopped process with this id (in the nursery's pid namespace), a copy of the nursery. It is
  // in the control group from its birth: to move it there later takes a grace period of RCU.
  RemoteTask clone_skeleton(pid_t pid);

  // The skeleton has been made: with a pid namespace of its own the nursery stays as its init and
  // ends with it, otherwise it goes now.
  void let_live();
  // Committed: the tree lives on after this object.
  void outlive();

 private:
  void end();
  int open_group();

  NurseryOptions options_;
  pid_t host_pid_ = -1;
  pid_t ending_pid_ = -1;  // ends with its last task
  std::optional<RemoteTask> task_;
};

}  // namespace godwit
