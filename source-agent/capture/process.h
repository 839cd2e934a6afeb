// Describes one process again and again: once whole, then what may have changed while it runs,
// then, in the blackout, what changed since.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "common/kernel/shared_list.h"
#include "common/model/describe.h"
#include "common/model/findings.h"
#include "source-agent/capture/blocked_calls.h"
#include "source-agent/capture/fd_table.h"
#include "source-agent/capture/mappings.h"
#include "source-agent/capture/threads.h"

namespace godwit {

class ProcessCapture {
 public:
  explicit ProcessCapture(pid_t host_pid);
  ProcessCapture(const ProcessCapture&) = delete;
  ProcessCapture& operator=(const ProcessCapture&) = delete;
  ~ProcessCapture();

  // What /proc tells without stopping the process: for preflight. Throws Refused for what can't be
  // moved, or leaves it out.
  proto::Process describe_outside(Unmovable unmovable = Unmovable::kRefuse);
  // Everything but descriptors, for which the process need not wait; it is stopped.
  proto::Process describe(RemoteTask& task);
  // The process runs: descriptors anew, the rest as it was last described. The areas anew too, but
  // they are not in the result: mappings().described() has them.
  proto::Process describe_running(RemoteTask& task);
  // Shortly before the switch: duplicates, flags and watches, so that describe_final() reads
  // little.
  void refresh();
  // The blackout, when all stand still and nothing is asked of them for some time: begins to look
  // which may have changed, beside all that follows.
  void begin_to_confirm();
  // The blackout, when the descriptors' duplicates have been taken: asks the process itself, while
  // there is still a processor free for it. describe_final() does it otherwise.
  void ask(RemoteTask& task);
  // The blackout: everything, with TCP streams (whose sockets must be in repair mode).
  // `mappings` are those of describe_mappings() since the stop.
  proto::Process describe_final(RemoteTask& task, proto::Mappings mappings);
  // Shortly before the switch: looks at what can only be asked inside of each thread, so that
  // describe_final() need not. Each is stopped for a millisecond, a few at a time while all others
  // run.
  void look_at_threads(RemoteTask& task);
  // The process runs, and is about to be stopped for good: looks again at threads that ran since
  // the look, in the same way, as long as they become fewer. `stops`: how often all were
  // stopped since the last call.
  void follow_threads(RemoteTask& task, int stops);
  // Shortly before the switch, and before look_at_threads(): connections that stand still,
  // described whole. The process is stopped for a millisecond, again and again.
  proto::Streams look_at_streams(RemoteTask& task);
  const KnownThreads& known_threads() const { return known_threads_; }
  // After describe_final(), while the destination works: throws Error when a thread
  // is not as it took it to be. The process is stopped, and not frozen yet. What
  // concerns descriptors can wait until after the commit: FdTableCapture::find_corrections().
  void confirm(RemoteTask& task);
  // Before the first stop. Follows what only shows then, to the last one; both objects stay where
  // they are.
  void watch_stops(RemoteTask& task);
  // What the next stop would do otherwise: shortly before the last one, so that it takes no longer.
  void observe_calls();
  // The areas only: the process is stopped or runs. The program break may be out of date;
  // describe_final() asks for it.
  std::shared_ptr<const proto::Mappings> describe_mappings(RemoteTask& task) {
    return mappings_.describe_areas(&task);
  }

  MappingsCapture& mappings() { return mappings_; }
  FdTableCapture& fd_table() { return fd_table_; }

 private:
  struct Questions;
  void stop_in_turn(RemoteTask& task, std::span<const pid_t> host_tids,
                    const std::function<void(CaptureContext&)>& look);
  void describe_state(RemoteTask& task, proto::Process& process);
  void describe_threads(CaptureContext& context, const KnownThreads& known,
                        proto::Process& process);

  pid_t host_pid_;
  MappingsCapture mappings_;
  FdTableCapture fd_table_;
  BlockedCallWatch blocked_calls_;
  proto::Process last_;  // without areas and descriptors
  KnownThreads known_threads_;
  std::set<pid_t> moved_threads_;  // by host tid
  std::vector<const KnownThread*> to_confirm_;
  std::unique_ptr<SharedList<char>> may_have_changed_;  // by the number in to_confirm_
  std::optional<ThreadAnswer> leader_;                  // of the last stop
  std::unique_ptr<Questions> asked_;
};

// Everything that can't be moved, of every kind, at once. Reads procfs only.
void preflight_process_kinds(pid_t host_pid, Findings& findings);

}  // namespace godwit
