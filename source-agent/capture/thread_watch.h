// Whether a thread can have changed since it was looked at, told without asking it.
//
// Most of what a batch tells of a thread (alternate stack, lists, address for set_tid_address(2),
// death signal, rseq area, credentials) only the thread itself can change. It has not as long as no
// instruction of it ran, and the kernel counts exactly how often it went to sleep: once when the
// look was over and it went back into its call, and once when it was stopped for good, with little
// time on a processor before each. What others may change (name, scheduling, processors, I/O
// priority) is read from outside.
//
// begin_look(), the batch, end_look(), resume, follow(0), the last stop, may_have_changed().
// Thread: the one that traces.
#pragma once

#include <sys/types.h>

#include <optional>
#include <string>

#include "common/base/unique_fd.h"
#include "common/kernel/proc_schedstat.h"

namespace godwit {

class ThreadWatch {
 public:
  // Opens three files. `with_files` false: none, and it may always have changed.
  ThreadWatch(pid_t host_pid, pid_t host_tid, bool with_files);

  // Before anything is asked: a change that comes in between is seen as one.
  void begin_look();
  // When everything was asked; the thread is stopped.
  void end_look();
  // The thread runs, and has been stopped and let go since the last reading as often as `stops`
  // says. False when it may have run more than that takes: it has to be looked at again.
  bool follow(int stops);
  // The thread is stopped, once since the last reading: false when everything is as the look found
  // it. 5 us.
  bool may_have_changed() const;

  // How many threads at a time: descriptors are for other things as well.
  static std::size_t watched_max();

 private:
  // Empty: it could not be read.
  std::string from_outside() const;
  // The counts of now; nothing when it may have run more than that.
  std::optional<RunCount> after(std::uint64_t sleeps) const;

  pid_t host_tid_;
  std::optional<RunCounter> counter_;
  UniqueFd name_;
  std::string outside_;
  std::optional<RunCount> ran_;  // nothing: it is not known to have slept since the look
  std::uint64_t slept_ = 0;
  std::uint64_t owed_ = 0;  // sleeps that the last reading was too early for
};

}  // namespace godwit
