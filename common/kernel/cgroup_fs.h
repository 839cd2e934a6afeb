// The cgroup2 hierarchy (cgroups(7), Documentation/admin-guide/cgroup-v2.rst), as far as freezing
// needs it: no controller has to be enabled.
//
// The freezer holds the decision of a migration: a frozen group's tasks do not run, whoever dies. A
// task in a ptrace stop counts as frozen and stays so when its tracer goes. Thawing is one write to
// a descriptor that is open already: the commit point.
//
// What runs in a group and what is frozen is read from the kernel, never remembered. All throw
// Error naming the path unless said otherwise.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/base/unique_fd.h"

namespace godwit {

// Where a cgroup2 hierarchy is mounted, and which of its groups is visible there ("/" usually).
struct CgroupMount {
  std::string path;
  std::string root;
};

// The first cgroup2 line of a mountinfo text (proc_pid_mountinfo(5)); nothing when there is none.
std::optional<CgroupMount> parse_cgroup_mount(std::string_view mountinfo);
// Of this process. Throws Error with a hint when none is mounted.
CgroupMount find_cgroup_mount();

// The folder of a task's cgroup2 group. Throws Error (gone; outside of what is mounted here).
std::string find_group_of(pid_t pid);

// A group of one migration, named godwit-<migration id>[-<suffix>].
class FreezerGroup {
 public:
  // A child of the group that the process is in; the process, all threads of it, is moved there.
  // For the source. What fails leaves no group behind.
  static FreezerGroup around(pid_t pid, const std::string& migration_id);
  // The paths that around() and create() will use: for a journal that must know them first.
  static std::string path_around(pid_t pid, const std::string& migration_id);
  static std::string path_of_new(const std::string& migration_id);
  // An empty group at the root of the hierarchy, godwit-<id>-restored. For the destination.
  static FreezerGroup create(const std::string& migration_id);
  // A group that is there already. For recovery.
  static FreezerGroup adopt(const std::string& path);

  FreezerGroup(FreezerGroup&& other) noexcept;
  FreezerGroup& operator=(FreezerGroup&&) = delete;
  // Unless keep(): gives everything back (give_back()), logging what fails. A group of create()
  // that is asked to freeze holds a copy that was not released: it is discarded instead. The source
  // calls keep() before it sends Commit: what unwinds after that must not let a second copy run.
  ~FreezerGroup();

  const std::string& path() const { return path_; }
  // Of the folder: for clone3's CLONE_INTO_CGROUP. Borrowed.
  int directory_fd() const { return directory_.get(); }

  // Moves a process with all its threads into the group.
  void add(pid_t pid);
  std::vector<pid_t> processes() const;

  // One write(2) each, to a descriptor opened beforehand. freeze() returns before all have stopped.
  void freeze();
  void thaw();
  // True once the kernel says that every task in the group is frozen; false at the timeout.
  bool wait_frozen(std::chrono::nanoseconds timeout) const;
  // What the kernel says now (cgroup.events).
  bool frozen() const;
  // What has been asked for last (cgroup.freeze).
  bool freeze_asked() const;

  // Thaws, moves every process to the parent group and removes the group. Idempotent.
  void give_back();
  // Ends every process in the group with SIGKILL, which a frozen one takes without running again,
  // and removes the group: for a copy that was never released. Idempotent.
  void discard();
  // The group stays as it is when this object goes.
  void keep() { owned_ = false; }

 private:
  explicit FreezerGroup(std::string path);
  bool exists() const;
  void remove();

  std::string path_;
  UniqueFd directory_;
  UniqueFd freeze_;
  UniqueFd events_;
  bool owned_ = true;
  bool discard_frozen_ = false;
};

// Groups named godwit-* anywhere in the hierarchy; with an id, those of this migration. For
// recovery.
std::vector<std::string> find_leftover_groups(const std::string& migration_id = {});

}  // namespace godwit
