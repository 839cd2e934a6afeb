// The blackout's look at descriptors that were described before: which of them are still so?
//
// Exact: every descriptor is asked what its description was made from.
//   path files         fdinfo (flags, offset, locks) and the whole stat but the time of access; the
//                      time of change tells a file from another that got its inode number
//   pipes, sockets     the inode number, which is theirs alone, and the flags
//   eventfds, epoll sets, signalfds   fdinfo, which has all there is to know
//   timerfds           never the same: they are read in full
// Cheap: no name is resolved, no descriptor duplicated; rows run in the process, and files of
// fdinfo have been opened ahead.
//
// Thread: the one that attached the task. Everything throws Error.
#pragma once

#include <optional>
#include <vector>

#include "common/kernel/proc_fdinfo.h"
#include "common/remote/remote_task.h"
#include "source-agent/capture/fd_facts.h"

namespace godwit {

class FdGlance {
 public:
  // Before the stop: lays out the questions. `described` stays where it is until look();
  // `looked_ns` (CLOCK_REALTIME) is when its description began.
  void prepare(std::vector<FdFacts>& described, const ProcFdDirectory& directory,
               std::int64_t looked_ns);
  bool prepared() const { return prepared_; }
  // The blackout: sets FdFacts::same and closed, and of pipes what waits.
  void look(RemoteTask& task);
  // Still the blackout, but later: throws Error when the owner of a file or the capacity of a pipe
  // is not as described. Of a few descriptors that was asked with the rest, which costs less than
  // waking the process once more.
  void confirm(RemoteTask& task);
  void clear();

 private:
  struct Asked {
    FdFacts* facts = nullptr;
    RowResult descriptor_flags;
    RowResult status_flags;
    RowResult status_row;
    RowResult waiting_row;
    DataAt status;   // struct stat
    DataAt waiting;  // int
  };
  struct Text {
    FdFacts* facts = nullptr;
    UniqueFd info;  // invalid: opened when it is read
  };
  struct Taken {               // for unchanged, to be confirmed
    FdFacts* facts = nullptr;  // until look()
    int fd = -1;
    bool same = false;
    proto::FileOwner owner;
    std::uint32_t capacity = 0;  // of a pipe
    DataAt owner_at;             // f_owner_ex
    RowResult owner_row;
    RowResult signal_row;
    RowResult capacity_row;
  };
  // As much as the task's scratch area takes at once.
  struct Part {
    SyscallBatch batch;
    std::vector<Asked> asked;
    std::vector<Taken> taken;
    std::optional<BatchOutcome> outcome;  // when `taken` was asked with the rest

    void fit();  // no more comes
  };

  static void add_part(std::vector<Part>& parts);
  void ask(FdFacts& facts);
  static void ask_taken(FdFacts& facts, Part& part);
  void read(const Asked& asked, const BatchOutcome& outcome) const;
  void read(const Text& text);
  static void settle(FdFacts& facts);
  static void confirm(const Taken& taken, const BatchOutcome& outcome);

  bool prepared_ = false;
  std::int64_t trusted_before_ns_ = 0;
  const ProcFdDirectory* directory_ = nullptr;
  std::vector<Part> parts_;
  std::vector<Text> texts_;
  std::vector<Part> later_;  // asked by confirm()
  std::string block_;
};

}  // namespace godwit
