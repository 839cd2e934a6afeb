// Builds the descriptor table of a skeleton ahead of the switch and puts it right in the blackout.
//
//   build(want)     any number of times: what can stand before stands, with its offset, count or
//                   contents; what is gone is closed
//   cut_over(want)  the blackout: the last differences, then timers, unix sockets, TCP and UDP
//   finish()        nothing but the process's own descriptors is left in it
//   release(replay) the handover is decided: sockets leave repair mode, the agent's copies go
//
// Rows go many to a batch: thousands of descriptors cost a few round trips. A new file is made at
// whatever number the kernel gives and moved above all wanted numbers at once, then copied to its
// place, so that making never meets a number that is wanted. Fixed rule: an open file stands at the
// descriptor that is its id (fd_plan.h).
//
// The skeleton runs as root, with its root directory and working directory not yet changed.
// Thread: the one that attached `task`. Everything throws Error; after that the skeleton is of no
// use.
#pragma once

#include <map>
#include <memory>
#include <span>
#include <vector>

#include "common/base/unique_fd.h"
#include "common/kernel/time_namespace.h"
#include "common/network/packet_replay.h"
#include "common/remote/remote_task.h"
#include "dest-agent/restore/epolls.h"
#include "dest-agent/restore/fd_plan.h"
#include "dest-agent/restore/file_states.h"
#include "dest-agent/restore/pipes.h"
#include "dest-agent/restore/regular_files.h"
#include "dest-agent/restore/unix_sockets.h"
#include "proto/control.pb.h"
#include "proto/fd_table.pb.h"

namespace godwit {

class FdTableRestorer {
 public:
  // `agent_pidfd`: number, in the skeleton, of a pidfd of this process. Raises this process's and
  // the skeleton's RLIMIT_NOFILE to the hard limit.
  FdTableRestorer(RemoteTask& task, int agent_pidfd);

  void build(std::shared_ptr<const proto::FdTable> want);
  void build(proto::FdTable want) { build(std::make_shared<proto::FdTable>(std::move(want))); }
  void cut_over(std::shared_ptr<const proto::FdTable> want);
  // A connection ahead of cut_over(), which leaves it alone then. One that was not prepared as it
  // is now waits for cut_over(). `may_move`: the source's runs on, and this one is only good when
  // confirm_stream() follows; it is made again when finish_stream() or cut_over() has it.
  void finish_stream(const proto::OpenFile& file, bool may_move = false);
  // Then: those that may still move get their flags.
  void complete_streams();
  // Nothing has moved in it. `stream`: with the timestamp of now.
  void confirm_stream(std::uint32_t file, const proto::TcpStream& stream);
  // Those that cut_over() is not told of, by file: they are what was confirmed.
  void keep_streams(std::map<std::uint32_t, proto::TcpSocket> streams);
  // After release(): sets options of sockets that the process, which may run, has not closed.
  // Returns a line for each that failed.
  std::vector<std::string> correct_sockets(pid_t host_pid, const proto::Corrections& corrections);
  void cut_over(proto::FdTable want) {
    cut_over(std::make_shared<proto::FdTable>(std::move(want)));
  }
  // Closes what is not wanted, the pidfd of this process among it: whoever needs such a descriptor
  // comes before.
  void finish();
  // The process may be detached and frozen. `replay`: what sockets need to put packets of their own
  // into the stack. Without release() the copies end with this object, silently.
  void release(PacketReplay& replay);
  // After the thaw.
  void prompt(PacketReplay& replay) const;

  // Where the pidfd is now: it gives way when its number is wanted.
  int agent_pidfd() const { return agent_pidfd_; }

 private:
  enum class Finished { kMayMove, kForGood };
  struct Making;  // one file between being made and standing at its place

  void move_agent_pidfd(const proto::FdTable& want);
  void close_descriptors(const FdPlan& plan);
  void make_files(const std::vector<const proto::OpenFile*>& files, int above);
  Making append_making(SyscallBatch& batch, const proto::OpenFile& file, int above);
  UniqueFd make_in_agent(const proto::OpenFile& file);
  BatchOutcome run_making(const SyscallBatch& batch, const std::vector<Making>& makings);
  void place_files(const std::vector<Making>& makings, const BatchOutcome& outcome,
                   const std::map<std::uint32_t, int>& unix_fds, int above);
  void set_descriptors(const FdPlan& plan);
  void reconcile(const proto::FdTable& want);
  void restore_contents(const proto::FdTable& want);
  void restore_states(const proto::FdTable& want);
  void arm_timers(const proto::FdTable& want);
  void finish_tcp(const proto::OpenFile& file);
  void check_streams() const;

  RemoteTask& task_;
  int agent_pidfd_;
  std::uint64_t descriptors_max_ = 0;  // RLIMIT_NOFILE of the skeleton while it is built
  TimeOffsets offsets_;
  std::map<std::uint32_t, std::uint64_t> inodes_;  // of `sockets_`, also once they are let go of
  std::shared_ptr<const proto::FdTable> have_;     // as last built; whole
  std::shared_ptr<const proto::FdTable> last_;     // of cut_over(), which may be changes to have_
  std::map<int, bool> close_on_exec_;              // of the description being built, by descriptor
  std::map<std::uint32_t, UniqueFd> sockets_;      // agent's copies of TCP and UDP sockets, by file
  std::map<std::uint32_t, Finished> finished_streams_;  // by file
  std::map<std::uint32_t, proto::TcpSocket> kept_streams_;
  EpollSets epolls_;
  FileStates states_;
  PipeStore pipes_;
  UnixPairs unix_pairs_;
};

}  // namespace godwit
