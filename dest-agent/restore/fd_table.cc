#include "dest-agent/restore/fd_table.h"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#include <algorithm>
#include <set>

#include "common/kernel/fd_limit.h"
#include "common/kernel/pidfd.h"
#include "common/kernel/proc_fdinfo.h"
#include "common/kernel/socket_options.h"
#include "dest-agent/restore/eventfds.h"
#include "dest-agent/restore/signalfds.h"
#include "dest-agent/restore/tcp_sockets.h"
#include "dest-agent/restore/timerfds.h"
#include "dest-agent/restore/udp_sockets.h"

namespace godwit {
namespace {

// Files made by one batch: bounds the descriptors that are needed above the wanted ones.
constexpr std::size_t kFilesPerBatch = 1000;

int highest_wanted(const proto::FdTable& want) {
  int highest = 2;
  for (const auto& entry : want.descriptors()) highest = std::max(highest, entry.fd());
  return highest;
}

// In the skeleton; returns the limit.
std::uint64_t raise_limit_inside(RemoteTask& task) {
  SyscallBatch ask;
  const DataAt limit = ask.reserve(sizeof(rlimit));
  ask.add(SYS_prlimit64, {0, RLIMIT_NOFILE, 0, limit}, "RLIMIT_NOFILE");
  auto value = task.run(ask).value<rlimit>(limit);
  value.rlim_cur = value.rlim_max;
  SyscallBatch raise;
  const DataAt wanted = raise.put_value(value);
  raise.add(SYS_prlimit64, {0, RLIMIT_NOFILE, wanted, 0}, "RLIMIT_NOFILE");
  task.run(raise);
  return value.rlim_max;
}

}  // namespace

struct FdTableRestorer::Making {
  const proto::OpenFile* file = nullptr;
  RowResult opened;   // openat of a regular file, for the error
  RowResult moved;    // where it is, above everything wanted; not for unix sockets
  DataAt status;      // struct stat of a regular file
  UniqueFd agent_fd;  // what the skeleton duplicates
};

FdTableRestorer::FdTableRestorer(RemoteTask& task, int agent_pidfd)
    : task_(task),
      agent_pidfd_(agent_pidfd),
      offsets_(read_time_offsets(task.host_pid())),
      have_(std::make_shared<proto::FdTable>()) {
  raise_descriptor_limit();
  descriptors_max_ = raise_limit_inside(task_);
}

void FdTableRestorer::build(std::shared_ptr<const proto::FdTable> want) {
  if (want->changes_only()) fail("changes of descriptors came ahead of the switch");
  reconcile(*want);
  have_ = std::move(want);
  pipes_.keep_only(*have_);
  in_context([&] { pipes_.fill(*have_); }, "pipes");
  std::vector<const proto::OpenFile*> files;
  for (const auto& file : have_->files()) files.push_back(&file);
  states_.apply(task_, files, StateTime::kAhead);
}

void FdTableRestorer::reconcile(const proto::FdTable& want) {
  const FdPlan plan =
      plan_fd_table(want.changes_only() ? touched_part(*have_, want) : *have_, want);
  if (!plan.empty()) {
    move_agent_pidfd(want);
    close_on_exec_.clear();
    for (const auto& entry : want.descriptors()) close_on_exec_[entry.fd()] = entry.close_on_exec();
    close_descriptors(plan);
    std::map<std::uint32_t, const proto::OpenFile*> files;
    for (const auto& file : want.files()) files[file.id()] = &file;
    std::vector<const proto::OpenFile*> to_make;
    for (const auto id : plan.make) to_make.push_back(files.at(id));
    make_files(to_make, std::max({highest_wanted(want), highest_wanted(*have_), agent_pidfd_}) + 1);
    set_descriptors(plan);
    close_on_exec_.clear();
  }
  SyscallBatch sets;
  epolls_.append_changes(sets, want);
  if (!sets.empty()) task_.run(sets);
}

void FdTableRestorer::move_agent_pidfd(const proto::FdTable& want) {
  const bool taken = std::any_of(want.descriptors().begin(), want.descriptors().end(),
                                 [&](const auto& entry) { return entry.fd() == agent_pidfd_; });
  if (!taken) return;
  SyscallBatch batch;
  const RowResult moved = batch.add(
      SYS_fcntl,
      {agent_pidfd_, F_DUPFD_CLOEXEC, std::max(highest_wanted(want), highest_wanted(*have_)) + 1},
      "agent's pidfd");
  batch.add(SYS_close, {agent_pidfd_}, "agent's pidfd");
  agent_pidfd_ = static_cast<int>(task_.run(batch)[moved]);
}

void FdTableRestorer::close_descriptors(const FdPlan& plan) {
  if (plan.close.empty()) return;
  SyscallBatch batch;
  epolls_.append_removals(batch, plan.close);
  for (const int fd : plan.close) {
    batch.add(SYS_close, {fd}, fmt::format("fd {}", fd));
    // An open file stands at its id: closing that number ends the file here.
    sockets_.erase(static_cast<std::uint32_t>(fd));
    finished_streams_.erase(static_cast<std::uint32_t>(fd));
    unix_pairs_.forget(static_cast<std::uint32_t>(fd));
    pipes_.forget(static_cast<std::uint32_t>(fd));
    states_.closed(fd);
  }
  task_.run(batch);
}

void FdTableRestorer::make_files(const std::vector<const proto::OpenFile*>& files, int above) {
  if (files.empty()) return;
  const auto room = static_cast<std::int64_t>(descriptors_max_) - above - 1;
  if (room < 16) {
    throw Error(fmt::format("the process needs descriptor {}, the limit here is {}", above - 1,
                            descriptors_max_),
                EMFILE, "raise the hard limit of RLIMIT_NOFILE of dest-agent");
  }
  const std::size_t step = std::min(kFilesPerBatch, static_cast<std::size_t>(room) - 8);
  // Unix pairs are made together, whatever lies between their descriptors.
  std::vector<const proto::OpenFile*> unix_files;
  std::vector<const proto::OpenFile*> others;
  for (const auto* file : files) (file->has_unix_socket() ? unix_files : others).push_back(file);
  for (std::size_t at = 0; at < others.size() || at == 0; at += step) {
    SyscallBatch batch;
    std::vector<Making> makings;
    for (std::size_t i = at; i < std::min(at + step, others.size()); ++i) {
      makings.push_back(append_making(batch, *others[i], above));
    }
    if (at == 0) unix_pairs_.append_make(batch, unix_files);
    if (batch.empty()) continue;
    const BatchOutcome outcome = run_making(batch, makings);
    const auto unix_fds =
        at == 0 ? unix_pairs_.collect(task_, outcome) : std::map<std::uint32_t, int>();
    place_files(makings, outcome, unix_fds, above);
    for (Making& making : makings) {
      const auto kind = making.file->kind_case();
      if (kind == proto::OpenFile::kTcpSocket || kind == proto::OpenFile::kUdpSocket) {
        inodes_[making.file->id()] = socket_inode(making.agent_fd.get());
        sockets_[making.file->id()] = std::move(making.agent_fd);
      }
    }
  }
}

UniqueFd FdTableRestorer::make_in_agent(const proto::OpenFile& file) {
  return in_context(
      [&] {
        if (file.has_pipe_end()) return pipes_.end_for(file);
        if (file.has_tcp_socket()) return prepare_tcp_socket(file.tcp_socket());
        return prepare_udp_socket(file.udp_socket());
      },
      "fd {}", file.id());
}

FdTableRestorer::Making FdTableRestorer::append_making(SyscallBatch& batch,
                                                       const proto::OpenFile& file, int above) {
  Making making;
  making.file = &file;
  RowResult made;
  switch (file.kind_case()) {
    case proto::OpenFile::kRegularFile:
      made = making.opened = append_open(batch, file);
      making.status = batch.reserve(sizeof(struct stat));
      batch.add(SYS_fstat, {made, making.status}, file.regular_file().path());
      break;
    case proto::OpenFile::kEventfd:
      made = append_eventfd(batch, file);
      break;
    case proto::OpenFile::kEpoll:
      made = append_epoll(batch, file);
      break;
    case proto::OpenFile::kTimerfd:
      made = append_timerfd(batch, file);
      break;
    case proto::OpenFile::kSignalfd:
      made = append_signalfd(batch, file);
      break;
    case proto::OpenFile::kPipeEnd:
    case proto::OpenFile::kTcpSocket:
    case proto::OpenFile::kUdpSocket:
      making.agent_fd = make_in_agent(file);
      made = batch.add(SYS_pidfd_getfd, {agent_pidfd_, making.agent_fd.get(), 0},
                       fmt::format("fd {}", file.id()));
      break;
    default:
      fail("fd {}: the description does not say what kind of file it is", file.id());
  }
  const std::string name = fmt::format("fd {}", file.id());
  making.moved = batch.add(SYS_fcntl, {made, F_DUPFD_CLOEXEC, above}, name);
  batch.add(SYS_close, {made}, name);
  return making;
}

// A regular file that cannot be opened is the operator's business: say it in those words.
BatchOutcome FdTableRestorer::run_making(const SyscallBatch& batch,
                                         const std::vector<Making>& makings) {
  const BatchOutcome outcome = task_.try_run(batch);
  if (outcome.complete()) return outcome;
  const std::size_t failed = outcome.results().size() - 1;
  const int code = static_cast<int>(-outcome.results().back());
  for (const Making& making : makings) {
    if (making.file->has_regular_file() && making.opened.row == failed) {
      throw_open_failed(*making.file, code);
    }
  }
  const auto& row = batch.rows().at(failed);
  throw_errno(
      code, fmt::format("{}: {} in the new process", batch.object(row), syscall_name(row.number)));
}

void FdTableRestorer::place_files(const std::vector<Making>& makings, const BatchOutcome& outcome,
                                  const std::map<std::uint32_t, int>& unix_fds, int above) {
  SyscallBatch batch;
  std::map<std::uint32_t, RowResult> moved;
  for (const auto& [id, fd] : unix_fds) {
    moved[id] = batch.add(SYS_fcntl, {fd, F_DUPFD_CLOEXEC, above}, fmt::format("fd {}", id));
    batch.add(SYS_close, {fd});
  }
  const auto place = [&](std::uint32_t id, const Argument& from) {
    const int flags = close_on_exec_[static_cast<int>(id)] ? O_CLOEXEC : 0;
    batch.add(SYS_dup3, {from, id, flags}, fmt::format("fd {}", id));
    batch.add(SYS_close, {from});
  };
  for (const auto& [id, row] : moved) place(id, row);
  for (const Making& making : makings) {
    if (making.file->has_regular_file()) {
      const auto found = outcome.value<struct stat>(making.status);
      check_regular_file(*making.file, found, FileCheck::kEarly);
      states_.made(*making.file, &found);
    } else {
      states_.made(*making.file, nullptr);
    }
    place(making.file->id(), outcome[making.moved]);
  }
  task_.run(batch);
}

void FdTableRestorer::set_descriptors(const FdPlan& plan) {
  SyscallBatch batch;
  for (const auto& entry : plan.duplicate) {
    batch.add(SYS_dup3, {entry.file, entry.fd, entry.close_on_exec ? O_CLOEXEC : 0},
              fmt::format("fd {}", entry.fd));
  }
  for (const auto& entry : plan.set_close_on_exec) {
    batch.add(SYS_fcntl, {entry.fd, F_SETFD, entry.close_on_exec ? FD_CLOEXEC : 0},
              fmt::format("fd {}", entry.fd));
  }
  if (!batch.empty()) task_.run(batch);
}

void FdTableRestorer::cut_over(std::shared_ptr<const proto::FdTable> want) {
  reconcile(*want);
  restore_contents(*want);
  check_streams();
  restore_states(*want);
  arm_timers(*want);
  // The last copies of ends that the process does not have: now its readers see the end of file.
  pipes_.close_all();
  unix_pairs_.close_all();
  last_ = std::move(want);
}

void FdTableRestorer::finish_stream(const proto::OpenFile& file, bool may_move) {
  const auto prepared =
      std::lower_bound(have_->files().begin(), have_->files().end(), file.id(),
                       [](const auto& each, std::uint32_t id) { return each.id() < id; });
  if (prepared == have_->files().end() || prepared->id() != file.id()) return;
  if (!prepared->has_tcp_socket()) return;
  if (!same_prepared(prepared->tcp_socket(), file.tcp_socket())) return;
  in_context([&] { finish_tcp(file); }, "fd {}", file.id());
  finished_streams_[file.id()] = may_move ? Finished::kMayMove : Finished::kForGood;
}

void FdTableRestorer::confirm_stream(std::uint32_t file, const proto::TcpStream& stream) {
  const auto finished = finished_streams_.find(file);
  if (finished == finished_streams_.end()) return;
  in_context([&] { set_stream_timestamp(sockets_.at(file).get(), stream); }, "fd {}", file);
  finished->second = Finished::kForGood;
}

void FdTableRestorer::complete_streams() {
  std::vector<const proto::OpenFile*> files;
  for (const auto& file : have_->files()) {
    if (finished_streams_.contains(file.id())) files.push_back(&file);
  }
  states_.apply(task_, files, StateTime::kSwitch);
}

void FdTableRestorer::keep_streams(std::map<std::uint32_t, proto::TcpSocket> streams) {
  kept_streams_ = std::move(streams);
}

// Each is good, or was made again since, or closed.
void FdTableRestorer::check_streams() const {
  for (const auto& [file, finished] : finished_streams_) {
    if (finished == Finished::kMayMove)
      fail("fd {}: the source does not say what became of it", file);
  }
  for (const auto& [file, socket] : kept_streams_) {
    if (!finished_streams_.contains(file)) fail("fd {}: the connection was not made ahead", file);
  }
}

void FdTableRestorer::finish_tcp(const proto::OpenFile& file) {
  const int fd = sockets_.at(file.id()).get();
  const auto finished = finished_streams_.find(file.id());
  if (finished != finished_streams_.end()) {
    if (finished->second == Finished::kForGood) return;
    reset_tcp_socket(fd, file.tcp_socket());
    finished->second = Finished::kForGood;
  }
  finish_tcp_socket(fd, file.tcp_socket());
}

void FdTableRestorer::restore_contents(const proto::FdTable& want) {
  in_context([&] { pipes_.fill(want); }, "pipes");
  in_context([&] { unix_pairs_.fill(want, task_.host_pid()); }, "unix sockets");
  for (const auto& file : want.files()) {
    in_context(
        [&] {
          if (file.has_tcp_socket()) finish_tcp(file);
          if (file.has_udp_socket())
            finish_udp_socket(sockets_.at(file.id()).get(), file.udp_socket());
        },
        "fd {}", file.id());
  }
}

void FdTableRestorer::restore_states(const proto::FdTable& want) {
  std::vector<const proto::OpenFile*> files;
  std::set<std::uint32_t> named;
  for (const auto& file : want.files()) {
    files.push_back(&file);
  }
  if (want.changes_only() && !states_.waiting().empty()) {
    // A file that is named stands at the descriptor of that number.
    for (const auto& entry : want.descriptors())
      named.insert(static_cast<std::uint32_t>(entry.fd()));
    named.insert(want.closed().begin(), want.closed().end());
    for (const auto& file : have_->files()) {
      if (states_.waits(file.id()) && named.count(file.id()) == 0) files.push_back(&file);
    }
  }
  states_.apply(task_, files, StateTime::kSwitch);
}

void FdTableRestorer::arm_timers(const proto::FdTable& want) {
  std::vector<const proto::OpenFile*> timers;
  for (const auto& file : want.files()) {
    if (file.has_timerfd()) timers.push_back(&file);
  }
  arm_timerfds(task_, std::move(timers), offsets_);
}

void FdTableRestorer::release(PacketReplay& replay) {
  for (const auto& file : last_->files()) {
    in_context(
        [&] {
          if (file.has_tcp_socket())
            release_tcp_socket(sockets_.at(file.id()).get(), file.tcp_socket(), replay);
          if (file.has_udp_socket())
            release_udp_socket(sockets_.at(file.id()).get(), file.udp_socket(), replay);
        },
        "fd {}", file.id());
  }
  for (const auto& [file, socket] : kept_streams_) {
    in_context([&] { release_tcp_socket(sockets_.at(file).get(), socket, replay); }, "fd {}", file);
  }
  sockets_.clear();
}

void FdTableRestorer::prompt(PacketReplay& replay) const {
  for (const auto& file : last_->files()) {
    if (!file.has_tcp_socket()) continue;
    in_context([&] { prompt_tcp_socket(file.tcp_socket(), replay); }, "fd {}", file.id());
  }
}

std::vector<std::string> FdTableRestorer::correct_sockets(pid_t host_pid,
                                                          const proto::Corrections& corrections) {
  std::vector<std::string> failed;
  const UniqueFd process = open_pidfd(host_pid);
  for (const proto::SocketCorrection& correction : corrections.sockets()) {
    try {
      const UniqueFd socket = copy_fd_of(process, static_cast<int>(correction.file()));
      const auto inode = inodes_.find(correction.file());
      if (inode == inodes_.end() || socket_inode(socket.get()) != inode->second) continue;
      correct_tcp_socket(socket.get(), correction);
    } catch (const Error& error) {
      // EBADF: it has been closed since.
      if (error.code() == EBADF) continue;
      failed.push_back(fmt::format("fd {}: after the switch: {}", correction.file(), error.what()));
    }
  }
  return failed;
}

// Listing thousands of descriptors takes long: mostly their number tells that nothing but the pidfd
// is left over, which is never at a number that is wanted.
void FdTableRestorer::finish() {
  const proto::FdTable& last = last_ ? *last_ : *have_;
  int count = last.descriptors_size();
  if (last.changes_only()) {
    count += have_->descriptors_size() - touched_part(*have_, last).descriptors_size();
  }
  const ProcFdDirectory directory(task_.host_pid());
  SyscallBatch batch;
  if (directory.count() == static_cast<std::size_t>(count) + 1) {
    batch.add(SYS_close, {agent_pidfd_}, "agent's pidfd");
    task_.run(batch);
    return;
  }
  std::set<int> wanted;
  if (last.changes_only()) {
    for (const auto& entry : have_->descriptors()) wanted.insert(entry.fd());
    for (const int fd : last.closed()) wanted.erase(fd);
  }
  for (const auto& entry : last.descriptors()) wanted.insert(entry.fd());
  for (const int fd : directory.list()) {
    if (wanted.count(fd) == 0) batch.add_may_fail(SYS_close, {fd}, fmt::format("fd {}", fd));
  }
  if (!batch.empty()) task_.run(batch);
}

}  // namespace godwit
