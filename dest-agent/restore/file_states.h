// Offsets, counts, flags and owners of the skeleton's open files: what has been put into each since
// it was made, so that a later description costs only what differs.
//
// Change class: in place. Most of it is put right ahead of the switch; what would act by itself
// then (O_ASYNC), or could not be taken back (a semaphore's count), waits for it.
//
// Thread: any one. Rows run in the skeleton.
#pragma once

#include <sys/stat.h>

#include <cstdint>
#include <map>
#include <set>
#include <vector>

#include "common/remote/remote_task.h"
#include "proto/fd_table.pb.h"

namespace godwit {

enum class StateTime { kAhead, kSwitch };

class FileStates {
 public:
  // A new file stands under that id. `found`: of a regular file, already checked.
  void made(const proto::OpenFile& file, const struct stat* found);
  // What stood at that descriptor is gone.
  void closed(int fd) { states_.erase(static_cast<std::uint32_t>(fd)); }

  // Puts right what differs. At the switch regular files whose size has changed are checked again;
  // throws Error naming the file when it is another one here.
  void apply(RemoteTask& task, const std::vector<const proto::OpenFile*>& files, StateTime time);
  // Has something that apply() left for the switch.
  bool waits(std::uint32_t id) const { return waiting_.count(id) > 0; }
  const std::set<std::uint32_t>& waiting() const { return waiting_; }

 private:
  struct State {
    std::int64_t offset = 0;
    std::uint64_t count = 0;
    std::int64_t flags = -1;  // F_SETFL; -1: not known
    proto::FileOwner owner;
    std::int64_t bytes = -1;  // found when it was checked
  };

  static void append_flags_and_owner(SyscallBatch& batch, const proto::OpenFile& file, State& state,
                                     StateTime time);
  static void append_count(SyscallBatch& batch, const proto::OpenFile& file, State& state);
  static bool must_wait(const proto::OpenFile& file, const State& state);

  std::map<std::uint32_t, State> states_;  // by id
  std::set<std::uint32_t> waiting_;
};

}  // namespace godwit
