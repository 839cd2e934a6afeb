// The descriptors of a process and the open files behind them (proto/fd_table.proto).
//
// Outside view only: /proc/PID/fd and fdinfo (proc(5)), kcmp(2) for what is shared, and duplicates
// by pidfd_getfd(2). A duplicate keeps an open file alive: a pipe that the process closes would see
// no end of file, a socket no FIN, an epoll set would go on reporting it. So while the process
// runs, a duplicate exists for microseconds only; duplicates that stay are taken when it is stopped
// and given back before it goes on.
//
// Thread: any one. Everything throws Error, and Refused for what cannot be moved.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <unordered_map>
#include <vector>

#include "common/kernel/shared_list.h"
#include "common/kernel/time_namespace.h"
#include "common/model/describe.h"
#include "common/model/findings.h"
#include "common/remote/syscall_batch.h"
#include "proto/fd_table.pb.h"
#include "source-agent/capture/fd_facts.h"
#include "source-agent/capture/fd_glance.h"
#include "source-agent/capture/fd_holders.h"
#include "source-agent/capture/pipes.h"
#include "source-agent/capture/regular_files.h"
#include "source-agent/capture/unmovable.h"

namespace godwit {

enum class SocketKind { kTcp, kUdp, kUnix };

// Family, type and protocol never change.
struct SocketType {
  int family = 0;
  int type = 0;
  int protocol = 0;

  bool is_tcp() const;
  bool is_udp() const;
  bool is_unix() const;
};

// A duplicate of one of the process's sockets; owned by the FdTableCapture.
struct SocketCopy {
  int fd = -1;  // in the process, the lowest of those that share it
  int agent_fd = -1;
  std::uint64_t inode = 0;
  SocketKind kind = SocketKind::kTcp;
  std::optional<std::uint32_t> segments_in;  // of a stream, when it was described for good
};

// A TCP socket as FdTableCapture::describe() saw it.
struct KnownSocket {
  FileStamp stamp;
  SocketType type;
  proto::TcpSocket described;
  bool relied_on = false;                    // by what was described for good
  std::optional<std::uint32_t> segments_in;  // sent by describe_streams()
  std::optional<TcpFacts> ahead;             // sent by look_at_streams(), and as it was then
};

class FdTableCapture {
 public:
  // Raises this process's RLIMIT_NOFILE to the hard limit.
  explicit FdTableCapture(pid_t host_pid);

  // Looks through the host for others who hold the same files. Before the blackout; describe()
  // calls it itself when something new has come.
  void refresh();

  // The shape: descriptors, sharing, flags, paths, addresses; what is queued, counted and owned is
  // left out, and so is what can't be moved as it is now: find_passing() judges it at the switch.
  // The process may run: then what changes during the call is described one way or other. kAhead:
  // what is queued, counted and owned as it is at that moment.
  proto::FdTable describe(FdDepth depth = FdDepth::kShape);

  // Everything but TCP streams. The process is stopped. `task` may be null: it saves reading fdinfo
  // for sockets.
  proto::FdTable describe_stopped(RemoteTask* task = nullptr);

  // --- The blackout -----------------------------------------------------------------------------
  // Before it, as the last: lays out the questions about what describe(kAhead) has seen. Then
  // describe_final() gives changes only.
  void expect_stop();
  // Before that: the connections that describe() has seen, by descriptor. Empty when they are so
  // few that a look at them is not worth the stops.
  std::vector<int> streams_to_look_at() const;
  // Of these those that stand still, whole; the process is stopped. What is found is sent ahead,
  // and describe_streams() only names those in which nothing has moved since.
  void look_at_streams(std::span<const int> fds, proto::Streams& out);
  // The process is stopped. Without expect_stop(), or a task: takes duplicates of everything, kept
  // until give_back(). Else: finds out what is not as described, and takes duplicates of that and
  // of sockets.
  void take_copies(RemoteTask* task = nullptr);
  // Then, when nothing is asked of the process for some time: begins to compare what is in pipes,
  // beside all that follows. describe_final() does it otherwise.
  void begin_to_compare();
  // Before anything rests on the stop: what has come since the last describe() and can't be
  // moved, or is locked. Mostly that passes, if the process is given the copies back and goes on.
  Findings find_passing();
  // The same while it runs, and has no copies.
  Findings find_passing_running();
  // Rows that ask for the close-on-exec flags of sockets and pipes, for which fdinfo would cost
  // fifty times as much; read_close_on_exec() takes the answers. Between take_copies() and
  // describe_final(), for which all descriptors have been asked one way or the other.
  void ask_close_on_exec(SyscallBatch& batch);
  void read_close_on_exec(const BatchOutcome& outcome);
  // The sockets among them, for holding packets and freezing (TCP_REPAIR).
  std::vector<SocketCopy> sockets() const;
  // The connections that describe() has seen, in parts as they are described: the first can be made
  // at the destination while the others are looked at. describe_final() names them only.
  using StreamSink = std::function<void(proto::Streams&)>;
  void describe_streams(const StreamSink& send);
  // Before the commit: what describe_streams() took for unchanged and was not, to be set right
  // before they are released. Throws Error when one is not the connection that describe() saw.
  proto::Corrections confirm_streams() const;
  // Everything else, TCP streams included. Of TCP sockets that describe() has seen, only what
  // programs change while they work is read again: find_corrections() looks at the rest.
  proto::FdTable describe_final();
  // After describe_final(), while the process is still stopped: throws Error or Refused when
  // something was taken for unchanged that is not.
  void confirm(RemoteTask& task);
  // After the commit, before give_back(): what describe_final() took for unchanged and was not.
  proto::Corrections find_corrections() const;
  // Closes the duplicates; before the process may go on.
  void give_back();

  // Everything that cannot be moved, at once, and does not pass within a moment (0.6 s when there
  // is something). The process may run.
  void examine(Findings& findings);

 private:
  struct Files;  // what descriptors have to know of each other

  std::vector<FdFacts> read_running(FdDepth depth = FdDepth::kShape);
  std::vector<FdFacts> read_stopped();
  std::optional<FdFacts> try_read_stopped(int fd);
  void look_again(RemoteTask& task);
  void note_change(const FdFacts& facts);
  void add_new();
  void forget_changes();
  void group_sockets();
  void group_again();
  void sort_out(std::span<FdFacts*> alike);
  bool has_to_be_compared(const FdFacts& facts) const;
  bool has_same_contents(const FdFacts& facts, PipeReader& reader) const;
  void end_comparing();
  bool pipe_is_as_described(const FdFacts& facts);
  std::vector<FdFacts*> find_changes();
  std::vector<const FdFacts*> known_connections(const std::vector<FdFacts>& facts) const;
  void name_streams_ahead(std::vector<const FdFacts*>& connections, std::vector<bool>& shut,
                          proto::Streams& out);
  KnownSocket& known_of(const FdFacts& facts) {
    return facts.known != nullptr ? *facts.known : known_.at(facts.socket_inode);
  }
  void look_at_stream(const FdFacts& facts, proto::Streams& out);
  void read_infos(std::vector<FdFacts>& facts) const;
  void read_info(FdFacts& facts) const;
  Findings find_passing_among(std::vector<FdFacts>& facts);
  static void leave_out_transaction(std::vector<FdFacts>& facts);
  void examine_passing_socket(const FdFacts& facts, Findings& findings) const;
  Findings examine_once();
  const KnownSocket* find_known(const FdFacts& facts) const;
  KnownSocket* look_up(const FdFacts& facts);  // good until the next describe()
  SocketType socket_type(const FdFacts& facts, int agent_fd) const;
  void describe_tcp_socket(FdFacts& facts, FdDepth depth, proto::TcpSocket& out);
  Files group(std::vector<FdFacts>& facts) const;
  proto::FdTable assemble(const std::vector<FdFacts*>& facts, Files& files, FdDepth depth,
                          Findings& findings);
  void describe_ahead(FdFacts& facts, Files& files, proto::OpenFile& out, Findings& findings);
  bool assemble_file(FdFacts& facts, FdDepth depth, Files& files, proto::FdTable& out,
                     Findings& findings);
  void describe_file(FdFacts& facts, FdDepth depth, Files& files, proto::OpenFile& out,
                     Findings& findings);
  void describe_socket(FdFacts& facts, FdDepth depth, Files& files, proto::OpenFile& out,
                       Findings& findings);
  void examine_holders(const FdFacts& facts, Findings& findings) const;
  void examine_epolls(Findings& findings);
  void examine_sockets(std::vector<FdFacts>& facts, Findings& findings) const;
  UniqueFd copy_fd(int fd) const;  // invalid: closed meanwhile

  pid_t host_pid_;
  ProcFdDirectory directory_;
  UniqueFd pidfd_;
  FdHolders holders_;
  RegularFilesCapture regular_files_;
  TimeOffsets offsets_;
  std::uint64_t own_network_ = 0;                         // inode of the agent's network namespace
  std::set<std::uint64_t> in_own_network_;                // sockets that were found to be in it
  std::unordered_map<std::uint64_t, KnownSocket> known_;  // by inode
  std::vector<FdFacts> shape_;  // at the last describe(); with changes_only_ what they replace
  bool shape_is_ahead_ = false;
  std::int64_t shape_began_ns_ = 0;  // CLOCK_REALTIME
  std::int64_t ahead_ms_ = 0;  // CLOCK_MONOTONIC: of the timestamps that look_at_streams() gives
  PipeReader pipe_reader_;
  PipeReader helpers_pipe_reader_;
  std::vector<const FdFacts*> full_pipes_;  // of kept_, by descriptor; compared beside the rest
  std::vector<int> changed_contents_;       // of these, by descriptor
  FdGlance glance_;
  std::vector<std::pair<std::size_t, int>> keys_;  // FdFacts::share_key of shape_, in order
  std::vector<std::size_t> alike_;                 // of these those that are there more than once
  bool changes_only_ = false;
  std::vector<int> closed_;                // with changes_only_
  std::set<std::uint64_t> changed_pipes_;  // with changes_only_; inodes
  std::vector<FdFacts> kept_;
  std::vector<std::pair<FdFacts*, RowResult>> asked_;  // of kept_
  std::unique_ptr<SharedList<char>> same_contents_;    // of full_pipes_; its helper uses the others
};

proto::FdTable capture_fd_table(CaptureContext& context);
void preflight_fd_table(pid_t host_pid, Findings& findings);

}  // namespace godwit
