#include "source-agent/capture/fd_table.h"

#include <linux/sockios.h>
#include <netinet/in.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include <algorithm>
#include <chrono>
#include <thread>

#include "common/base/clock.h"
#include "common/base/scope_exit.h"
#include "common/kernel/fd_limit.h"
#include "common/kernel/kcmp.h"
#include "common/kernel/tcp_repair.h"
#include "source-agent/capture/epolls.h"
#include "source-agent/capture/eventfds.h"
#include "source-agent/capture/fd_owner.h"
#include "source-agent/capture/fd_table_files.h"
#include "source-agent/capture/foreign_files.h"
#include "source-agent/capture/pipes.h"
#include "source-agent/capture/signalfds.h"
#include "source-agent/capture/tcp_sockets.h"
#include "source-agent/capture/timerfds.h"
#include "source-agent/capture/udp_sockets.h"
#include "source-agent/capture/unix_sockets.h"

namespace godwit {
namespace {

constexpr int kAttempts = 5;  // a running process may change during a description

bool is_running(FdDepth depth) { return depth == FdDepth::kShape || depth == FdDepth::kAhead; }

bool is_internet(int family) { return family == AF_INET || family == AF_INET6; }

}  // namespace

bool SocketType::is_tcp() const {
  return is_internet(family) && type == SOCK_STREAM && protocol == IPPROTO_TCP;
}
bool SocketType::is_udp() const {
  return is_internet(family) && type == SOCK_DGRAM && protocol == IPPROTO_UDP;
}
bool SocketType::is_unix() const { return family == AF_UNIX; }

FdTableCapture::FdTableCapture(pid_t host_pid)
    : host_pid_(host_pid), directory_(host_pid), holders_(host_pid), regular_files_(host_pid) {
  raise_descriptor_limit();
  pidfd_.reset(static_cast<int>(syscall(SYS_pidfd_open, host_pid, 0)));
  if (!pidfd_.valid()) throw_system("open a pidfd of process {}", host_pid);
  offsets_ = read_time_offsets(host_pid);
  own_network_ = try_stamp("/proc/self/ns/net").value_or(FileStamp{}).inode;
}

void FdTableCapture::refresh() {
  auto facts = read_running();
  holders_.look_for(pointers_to(facts));
}

UniqueFd FdTableCapture::copy_fd(int fd) const {
  UniqueFd copy(static_cast<int>(syscall(SYS_pidfd_getfd, pidfd_.get(), fd, 0)));
  if (!copy.valid() && errno != EBADF && errno != ESRCH) {
    throw_system("duplicate fd {} of process {}", fd, host_pid_);
  }
  return copy;
}

std::vector<FdFacts> FdTableCapture::read_running(FdDepth depth) {
  std::vector<FdFacts> out;
  const std::vector<int> fds = directory_.list();
  out.reserve(fds.size());
  for (const int fd : fds) {
    FdFacts facts;
    facts.host_pid = host_pid_;
    facts.fd = fd;
    auto link = directory_.link(fd);
    auto text = directory_.info_text(fd);
    const auto stamp = try_stamp(directory_.path(fd));
    if (!link || !text || !stamp) continue;  // closed meanwhile
    facts.set_link(std::move(*link));
    facts.info = parse_fdinfo(*text);
    facts.told = true;
    facts.stamp = *stamp;
    if (depth == FdDepth::kAhead) {
      facts.torn = directory_.link(fd) != facts.link;
      facts.info_text = std::move(*text);
    }
    out.push_back(std::move(facts));
  }
  return out;
}

KnownSocket* FdTableCapture::look_up(const FdFacts& facts) {
  if (!facts.is_socket()) return nullptr;
  const auto found = known_.find(facts.socket_inode);
  return found == known_.end() ? nullptr : &found->second;
}

const KnownSocket* FdTableCapture::find_known(const FdFacts& facts) const {
  if (!facts.is_socket()) return nullptr;
  if (facts.known != nullptr) return facts.known;
  const auto found = known_.find(facts.socket_inode);
  return found == known_.end() ? nullptr : &found->second;
}

SocketType FdTableCapture::socket_type(const FdFacts& facts, int agent_fd) const {
  if (const KnownSocket* known = find_known(facts)) return known->type;
  const auto get = [&](int name) {
    int value = 0;
    socklen_t bytes = sizeof value;
    if (getsockopt(agent_fd, SOL_SOCKET, name, &value, &bytes) != 0) {
      throw_system("read socket option {} of {}", name, facts.name());
    }
    return value;
  };
  return {get(SO_DOMAIN), get(SO_TYPE), get(SO_PROTOCOL)};
}

std::optional<FdFacts> FdTableCapture::try_read_stopped(int fd) {
  FdFacts facts;
  facts.host_pid = host_pid_;
  facts.fd = fd;
  facts.copy = copy_fd(fd);
  auto link = directory_.link(fd);
  if (!facts.copy.valid() || !link) return std::nullopt;
  facts.set_link(std::move(*link));
  facts.known = look_up(facts);
  if (facts.known != nullptr) {
    facts.stamp = facts.known->stamp;
    facts.before_hold = tcp_facts(facts.copy.get());
  } else {
    struct stat status {};
    if (fstat(facts.copy.get(), &status) != 0) throw_system("stat {}", facts.name());
    facts.stamp = stamp_of(status);
  }
  return facts;
}

std::vector<FdFacts> FdTableCapture::read_stopped() {
  std::vector<FdFacts> out;
  for (const int fd : directory_.list()) {
    auto facts = try_read_stopped(fd);
    if (!facts) fail("fd {} of process {} vanished", fd, host_pid_);
    out.push_back(std::move(*facts));
  }
  return out;
}

FdTableCapture::Files FdTableCapture::group(std::vector<FdFacts>& facts) const {
  Files files;
  files.all = &facts;
  // Of each link (the same object by name), the open files found so far, in kcmp's order.
  std::map<std::string, std::vector<int>> leaders;
  for (FdFacts& entry : facts) {
    auto& candidates = leaders[entry.link];
    if (entry.is_socket()) {  // a socket has exactly one open file
      files.own_sockets.insert(entry.stamp.inode);
      if (candidates.empty()) candidates.push_back(entry.fd);
      entry.leader = candidates.front();
      continue;
    }
    entry.leader = entry.fd;
    bool shared = false;
    const auto place =
        std::lower_bound(candidates.begin(), candidates.end(), entry.fd, [&](int have, int fd) {
          const int order = try_compare_open_files(host_pid_, have, host_pid_, fd);
          if (order == 0) {
            shared = true;
            entry.leader = have;
          }
          return order == -1;
        });
    if (shared) continue;
    candidates.insert(place, entry.fd);
    if (is_pipe(entry)) files.add_pipe(entry);
  }
  std::map<int, std::size_t> ranks;
  for (const auto& [link, candidates] : leaders) {
    for (std::size_t rank = 0; rank < candidates.size(); ++rank) ranks[candidates[rank]] = rank;
  }
  for (FdFacts& entry : facts) entry.rank = ranks[entry.leader];
  return files;
}

proto::FdTable FdTableCapture::assemble(const std::vector<FdFacts*>& facts, Files& files,
                                        FdDepth depth, Findings& findings) {
  proto::FdTable out;
  std::set<int> left_out;
  for (FdFacts* each : facts) {
    FdFacts& entry = *each;
    if (entry.leader == entry.fd && !assemble_file(entry, depth, files, out, findings)) {
      left_out.insert(entry.leader);
    }
    if (left_out.count(entry.leader) > 0) {
      entry.torn = true;
      continue;
    }
    auto* descriptor = out.add_descriptors();
    descriptor->set_fd(entry.fd);
    descriptor->set_close_on_exec((entry.info.flags & O_CLOEXEC) != 0);
    descriptor->set_file(static_cast<std::uint32_t>(entry.leader));
  }
  return out;
}

// False: it is refused, and is left out of a shape.
bool FdTableCapture::assemble_file(FdFacts& facts, FdDepth depth, Files& files, proto::FdTable& out,
                                   Findings& findings) {
  Findings own;
  proto::OpenFile& file = *out.add_files();
  file.set_id(static_cast<std::uint32_t>(facts.fd));
  file.set_status_flags(facts.info.flags & ~static_cast<std::uint32_t>(O_CLOEXEC));
  examine_holders(facts, own);
  try {
    if (depth == FdDepth::kAhead) {
      describe_ahead(facts, files, file, own);
    } else {
      describe_file(facts, depth, files, file, own);
    }
  } catch (const Refused& refused) {
    refuse(own, refused.id(), facts.name(), refused.what(), refused.hint());
  }
  if (!is_running(depth) && (facts.info.flags & O_PATH) == 0) {
    capture_file_owner(facts, file, own);
  }
  const bool left_out = is_running(depth) && refuses(own);
  if (left_out) out.mutable_files()->RemoveLast();
  findings.insert(findings.end(), own.begin(), own.end());
  return !left_out;
}

// With a duplicate for as long as it takes.
void FdTableCapture::describe_ahead(FdFacts& facts, Files& files, proto::OpenFile& out,
                                    Findings& findings) {
  if (facts.is_socket() || is_timerfd(facts) || (facts.info.flags & O_PATH) != 0) {
    return describe_file(facts, FdDepth::kAhead, files, out, findings);
  }
  facts.copy = copy_fd(facts.fd);
  const ScopeExit give_back([&] { facts.copy.reset(); });
  if (!facts.copy.valid() || !stamp_fd(facts.copy.get(), facts.name()).is_same_file(facts.stamp)) {
    facts.copy.reset();
    facts.torn = true;
    return describe_file(facts, FdDepth::kShape, files, out, findings);
  }
  describe_file(facts, FdDepth::kAhead, files, out, findings);
  capture_file_owner(facts, out, findings);
  facts.owner = out.owner();
  if (out.has_pipe_end()) facts.pipe = std::make_unique<proto::PipeEnd>(out.pipe_end());
}

void FdTableCapture::examine_holders(const FdFacts& facts, Findings& findings) const {
  const auto holder = holders_.outside(facts);
  if (!holder) return;
  if (is_path_file(facts)) {
    warn(findings, "fd-shared-file", facts.name(),
         fmt::format("{} shares this open file; after the move each has its own offset",
                     holder->describe()),
         "harmless for logs opened with O_APPEND and for /dev/null");
    return;
  }
  refuse(findings, is_pipe(facts) ? "fd-pipe-outside" : "fd-shared-outside", facts.name(),
         fmt::format("{} holds it too", holder->describe()),
         "only what is within the process can be moved: redirect it, or end the other process");
}

void FdTableCapture::describe_file(FdFacts& facts, FdDepth depth, Files& files,
                                   proto::OpenFile& out, Findings& findings) {
  if (facts.is_socket()) return describe_socket(facts, depth, files, out, findings);
  if (is_path_file(facts)) {
    *out.mutable_regular_file() = regular_files_.describe(facts, findings);
  } else if (is_pipe(facts)) {
    const auto reader = files.pipe_readers.find(facts.stamp.inode);
    const bool contents = depth != FdDepth::kShape && reader != files.pipe_readers.end() &&
                          reader->second == facts.fd;
    *out.mutable_pipe_end() = capture_pipe_end(facts, contents, !is_running(depth), pipe_reader_);
  } else if (is_eventfd(facts)) {
    *out.mutable_eventfd() = capture_eventfd(facts, findings);
  } else if (is_epoll(facts)) {
    // A running process may close a target between its listing and the set's.
    Findings passing;
    *out.mutable_epoll() = capture_epoll(
        facts, [&](int fd) { return files.find(fd); }, is_running(depth) ? passing : findings);
  } else if (is_timerfd(facts)) {
    *out.mutable_timerfd() = capture_timerfd(facts, directory_, offsets_, findings);
  } else if (is_signalfd(facts)) {
    *out.mutable_signalfd() = capture_signalfd(facts);
  } else {
    refuse_foreign_file(facts, findings);
  }
}

void FdTableCapture::describe_socket(FdFacts& facts, FdDepth depth, Files& files,
                                     proto::OpenFile& out, Findings& findings) {
  const KnownSocket* known = find_known(facts);
  if (depth == FdDepth::kFinal && known != nullptr && known->segments_in) {
    out.set_in_streams(true);
    return;
  }
  const bool borrowed = !facts.copy.valid();
  if (borrowed) facts.copy = copy_fd(facts.fd);
  const ScopeExit give_back([&] {
    if (borrowed) facts.copy.reset();
  });
  if (!facts.copy.valid()) fail("{} of process {} was closed", facts.name(), host_pid_);
  if (in_own_network_.count(facts.stamp.inode) == 0) {
    const UniqueFd network(ioctl(facts.copy.get(), SIOCGSKNS));
    if (!network.valid()) throw_system("ask for the network namespace of {}", facts.name());
    if (stamp_fd(network.get(), "network namespace").inode != own_network_) {
      refuse(findings, "fd-other-network", facts.name(),
             "the socket belongs to another network namespace than the one migrate runs in",
             fmt::format("run migrate inside it: nsenter --net=/proc/{}/ns/net", host_pid_));
      return;
    }
    in_own_network_.insert(facts.stamp.inode);
  }
  const SocketType type = socket_type(facts, facts.copy.get());
  if (type.is_tcp()) {
    describe_tcp_socket(facts, depth, *out.mutable_tcp_socket());
  } else if (type.is_udp()) {
    auto* socket = out.mutable_udp_socket();
    *socket = capture_udp_socket(facts.copy.get());
    if (depth == FdDepth::kFinal) capture_udp_queue(facts.copy.get(), *socket);
  } else if (type.is_unix()) {
    const auto own = [&](std::uint64_t inode) { return files.own_sockets.count(inode) > 0; };
    *out.mutable_unix_socket() =
        capture_unix_socket(facts, !is_running(depth), own, files.unix_table, findings);
  } else {
    refuse_foreign_socket(facts, type.family, type.type, type.protocol, findings);
  }
}

void FdTableCapture::describe_tcp_socket(FdFacts& facts, FdDepth depth, proto::TcpSocket& out) {
  const int fd = facts.copy.get();
  const auto known = known_.find(facts.stamp.inode);
  if (depth != FdDepth::kFinal || known == known_.end()) {
    out = capture_tcp_socket(fd);
  } else {
    out = capture_tcp_socket_again(fd, known->second.described);
    known->second.relied_on = true;
  }
  if (is_running(depth)) {
    KnownSocket seen{facts.stamp, socket_type(facts, fd), out, false, std::nullopt, std::nullopt};
    if (has_tcp_stream(static_cast<TcpState>(out.state()))) {
      seen.described.mutable_stream()->set_congestion_control(tcp_congestion_control(fd));
      seen.described.mutable_stream()->set_segments_in(tcp_facts(fd).segments_in);
    }
    known_[facts.stamp.inode] = std::move(seen);
  }
  const bool listens = static_cast<TcpState>(out.state()) == TcpState::kListen;
  if (depth != FdDepth::kFinal || listens) return;
  capture_tcp_stream(fd, out, known == known_.end() ? nullptr : &facts.before_hold);
}

proto::FdTable FdTableCapture::describe(FdDepth depth) {
  for (int attempt = 1;; ++attempt) {
    try {
      glance_.clear();
      std::vector<FdFacts>().swap(shape_);  // there can be too many to have them twice
      known_.clear();
      shape_is_ahead_ = depth == FdDepth::kAhead;
      shape_began_ns_ = clock_ns(CLOCK_REALTIME);
      auto facts = read_running(depth);
      leave_out_transaction(facts);
      holders_.look_for(pointers_to(facts));
      Findings findings;
      Files files = group(facts);
      auto out = assemble(pointers_to(facts), files, depth, findings);
      shape_ = std::move(facts);
      for (FdFacts& entry : shape_) entry.known = look_up(entry);
      return out;
    } catch (const Error&) {
      if (attempt == kAttempts) throw;
    }
  }
}

proto::FdTable FdTableCapture::describe_stopped(RemoteTask* task) {
  take_copies();
  const ScopeExit forget([&] { give_back(); });
  if (task != nullptr) {
    SyscallBatch batch;
    ask_close_on_exec(batch);
    if (!batch.empty()) read_close_on_exec(task->run(batch));
  }
  read_infos(kept_);
  holders_.look_for(pointers_to(kept_));
  Findings findings;
  Files files = group(kept_);
  auto out = assemble(pointers_to(kept_), files, FdDepth::kContents, findings);
  throw_first_refusal(findings);
  return out;
}

// Targets that are wrong at one look may just be closed between two reads: wrong twice counts.
void FdTableCapture::examine_epolls(Findings& findings) {
  const auto look = [&] {
    Findings found;
    auto facts = read_running();
    const Files files = group(facts);
    for (const FdFacts& entry : facts) {
      if (!is_epoll(entry)) continue;
      capture_epoll(
          entry, [&](int fd) { return files.find(fd); }, found);
    }
    return found;
  };
  const Findings first = look();
  if (first.empty()) return;
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  for (const auto& second : look()) {
    const bool both = std::any_of(first.begin(), first.end(), [&](const proto::Finding& entry) {
      return entry.object() == second.object() && entry.problem() == second.problem();
    });
    if (both) findings.push_back(second);
  }
}

void FdTableCapture::examine_sockets(std::vector<FdFacts>& facts, Findings& findings) const {
  std::set<std::uint64_t> inodes;
  for (const FdFacts& entry : facts) {
    if (entry.is_socket()) inodes.insert(entry.stamp.inode);
  }
  if (inodes.empty()) return;
  const ProcessSockets sockets(inodes);
  for (FdFacts& entry : facts) {
    if (!entry.is_socket() || inodes.erase(entry.stamp.inode) == 0) continue;
    entry.copy = copy_fd(entry.fd);
    if (!entry.copy.valid()) continue;  // closed meanwhile
    if (is_tcp_socket(entry.copy.get())) {
      preflight_tcp_socket(entry.copy.get(), entry.fd, sockets, findings);
    } else if (is_udp_socket(entry.copy.get())) {
      preflight_udp_socket(entry.copy.get(), entry.fd, findings);
    }
    entry.copy.reset();
  }
}

Findings FdTableCapture::examine_once() {
  Findings findings;
  for (const pid_t tid : threads_with_own_table(host_pid_)) {
    refuse(findings, "fd-table-not-shared", fmt::format("thread {}", tid),
           "it has a descriptor table of its own",
           "cannot be moved yet: all threads must share one");
  }
  for (int attempt = 1;; ++attempt) {
    try {
      auto facts = read_running();
      holders_.look_for(pointers_to(facts));
      Findings found;
      Files files = group(facts);
      assemble(pointers_to(facts), files, FdDepth::kShape, found);
      examine_sockets(facts, found);
      examine_epolls(found);
      findings.insert(findings.end(), found.begin(), found.end());
      return findings;
    } catch (const Error&) {
      if (attempt == kAttempts) throw;
    }
  }
}

proto::FdTable capture_fd_table(CaptureContext& context) {
  return FdTableCapture(context.host_pid).describe_stopped(&context.task);
}

void preflight_fd_table(pid_t host_pid, Findings& findings) {
  FdTableCapture(host_pid).examine(findings);
}

}  // namespace godwit
