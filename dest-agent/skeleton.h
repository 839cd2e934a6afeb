// The skeleton: the restored process while the original still runs.
//
// It is made from the first description, reconcile() applies each later one as a difference,
// cut_over() does in the blackout what is left. Building is reconciling from nothing. The tasks are
// stopped under ptrace all the time, so what was last applied is what there is.
//
//   constructor address space, vDSO, threads, descriptors, actions
//   reconcile   the same, differences only
//   brace       shortly before the blackout: all threads but the leader are as they will go on
//   cut_over    the same, plus what has no meaning earlier: streams, offsets, counts
//   complete    every page is in place: userfaultfd gone, limits, credentials, rseq, pending
//   signals,
//               timers, registers, for the leader and for threads that moved since
//   let_live    it does not die with the agent any more: it goes on as soon as its frozen group is
//               thawed and it is let go of, by release() or by the agent's death
//   release     detached, the leader and threads that moved first
#pragma once

#include <array>
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
  // `source_vdso`: see place_vdso().
  Skeleton(Nursery& nursery, std::shared_ptr<proto::Process> want, int agent_pidfd,
           std::span<const std::byte> source_vdso);

  // Applies a later description.
  void reconcile(std::shared_ptr<proto::Process> want);
  // Shortly before the blackout, with all threads as they are now: what does not change in one that
  // sleeps is done here. Takes the list.
  void brace(google::protobuf::RepeatedPtrField<proto::Thread>& threads);
  // In the blackout: the areas, then all the rest. `mark` is told the name of each phase that has
  // ended.
  // `same_areas`: the description has none, they are the last one's.
  void cut_over_areas(const std::shared_ptr<proto::Process>& want, bool same_areas);
  void cut_over(std::shared_ptr<proto::Process> want, const std::function<void(const char*)>& mark);
  // In the blackout, when every page has been placed.
  void complete();
  // Nothing of ours is left in the address space. The last thing that runs in the task.
  void clear();
  // The registers stand: an agent that dies does not take the process along from here on. It must
  // sit in a frozen group.
  void let_live();
  // Lets go of the process: it runs, if its group does.
  void release();
  // Connections ahead of cut_over().
  void finish_stream(const proto::OpenFile& file, bool may_move) {
    fd_table_.finish_stream(file, may_move);
  }
  void confirm_stream(std::uint32_t file, const proto::TcpStream& stream) {
    fd_table_.confirm_stream(file, stream);
  }
  void complete_streams() { fd_table_.complete_streams(); }
  void keep_streams(std::map<std::uint32_t, proto::TcpSocket> streams) {
    fd_table_.keep_streams(std::move(streams));
  }
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
  using Threads = google::protobuf::RepeatedPtrField<proto::Thread>;
  using RseqIds = std::array<std::byte, 28>;  // the head of an rseq area
  // What became of a thread of the description.
  struct Made {
    pid_t host_tid = 0;
    std::size_t index = 0;  // among the task's, the last time
    bool done = false;      // nothing but registers, mask and signals can still change
    bool moved = true;      // registers and mask are still to be set
    Address rseq_at = 0;    // registered already: what the kernel wrote there
    RseqIds rseq{};
  };
  void reconcile_threads(const Threads& want);
  void end_missing_threads(const Threads& want);
  void fill_in(Threads& threads) const;
  void reconcile_state(const proto::Process& want);
  bool is_leader(const proto::Thread& thread) const {
    return thread.tid() == have_->identity().pid();
  }
  bool can_be_done(const proto::Thread& thread, int pagemap) const;
  void finish_thread(const proto::Thread& want);
  void restore_rseq_ids();
  void plan_last_of(const proto::Thread& want, SyscallBatch& batch) const;
  void complete_thread(const proto::Thread& want);
  void set_registers(const proto::Thread& want);
  Made& made(const proto::Thread& thread);
  Tracee& tracee_of(const proto::Thread& thread);

  RemoteTask task_;
  pid_t host_pid_;  // also when the task has been let go of
  MappingsRestorer mappings_;
  FdTableRestorer fd_table_;
  std::vector<std::uint32_t> processors_;
  CapabilitiesHere capabilities_;
  std::shared_ptr<proto::Process> have_;        // what was last applied
  std::shared_ptr<const proto::Process> kept_;  // taking it apart is no work for the blackout
  std::map<pid_t, Made> made_;                  // by the thread's own number
  std::int64_t cut_over_began_ns_ = 0;
  WaitingTimers waiting_timers_;
};

}  // namespace godwit
