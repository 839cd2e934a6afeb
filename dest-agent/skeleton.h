// The skeleton: the restored process while the original still runs.
//
// It is made from the first description, reconcile() applies each later one as a difference,
// cut_over() does in the blackout what is left. Building is reconciling from nothing. The tasks are
// stopped under ptrace all the time, so what was last applied is what there is.
//
//   constructor address space, vDSO, threads, descriptors, actions
//   reconcile   the same, differences only
//   cut_over    the same, plus what has no meaning earlier: streams, offsets, counts
//   complete    every page is in place: userfaultfd gone, limits, credentials, rseq, pending
//   signals,
//               timers, registers
//   release     detached; it runs when its frozen group is thawed
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <vector>

#include "common/remote/remote_task.h"
#include "dest-agent/nursery.h"
#include "dest-agent/restore/credentials.h"
#include "dest-agent/restore/fd_table.h"
#include "dest-agent/restore/mappings.h"
#include "dest-agent/restore/timers.h"
#include "proto/snapshot.pb.h"

namespace godwit {

class Skeleton {
 public:
  // Makes the process with the id that `want` says and builds it. `agent_pidfd`: the descriptor
  // under which the nursery's children find a pidfd of this process.
  Skeleton(Nursery& nursery, std::shared_ptr<proto::Process> want, int agent_pidfd);

  // Applies a later description.
  void reconcile(std::shared_ptr<proto::Process> want);
  // In the blackout: the areas, then all the rest. `mark` is told the name of each phase that has
  // ended.
  // `same_areas`: the description has none, they are the last one's.
  void cut_over_areas(const std::shared_ptr<proto::Process>& want, bool same_areas);
  void cut_over(std::shared_ptr<proto::Process> want, const std::function<void(const char*)>& mark);
  // In the blackout, when every page has been placed.
  void complete();
  // Nothing of ours is left in the address space. The last thing that runs in the task.
  void clear();
  // The registers stand: lets go of the process, which must sit in a frozen group.
  void release();
  // Connections ahead of cut_over().
  void finish_stream(const proto::OpenFile& file) { fd_table_.finish_stream(file); }
  // The source can no longer run: streams may speak again.
  void release_streams(PacketReplay& replay) { fd_table_.release(replay); }
  void prompt_streams(PacketReplay& replay) const { fd_table_.prompt(replay); }

  // Once streams are released: what their sockets got at the source in the last instant. Returns
  // what could not be done.
  std::vector<std::string> correct_sockets(const proto::Corrections& corrections) {
    return fd_table_.correct_sockets(host_pid_, corrections);
  }

  pid_t host_pid() const { return host_pid_; }
  RemoteTask& task() { return task_; }
  MappingsRestorer& mappings() { return mappings_; }

 private:
  void begin();
  void check_follows(const proto::Process& want) const;
  void reconcile_threads(const proto::Process& want);
  void reconcile_state(const proto::Process& want);
  void complete_thread(Tracee& tracee, const proto::Thread& want, bool leader);
  Tracee& tracee_of(const proto::Thread& thread);

  RemoteTask task_;
  pid_t host_pid_;  // also when the task has been let go of
  MappingsRestorer mappings_;
  FdTableRestorer fd_table_;
  std::vector<std::uint32_t> processors_;
  CapabilitiesHere capabilities_;
  std::shared_ptr<proto::Process> have_;        // what was last applied
  std::shared_ptr<const proto::Process> kept_;  // taking it apart is no work for the blackout
  std::map<pid_t, pid_t> host_tids_;            // by the thread's own number
  std::int64_t cut_over_began_ns_ = 0;
  WaitingTimers waiting_timers_;
};

}  // namespace godwit
