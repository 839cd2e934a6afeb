#include "common/model/snapshot_check.h"

#include <netinet/in.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>

#include <algorithm>
#include <set>

#include "arch/arch.h"
#include "common/base/error.h"
#include "common/base/page_range.h"
#include "common/base/printable.h"
#include "common/model/snapshot.h"

namespace godwit {
namespace {

constexpr std::int64_t kPidMaximum = 4 << 20;  // PID_MAX_LIMIT
constexpr std::int64_t kFdMaximum = 1 << 30;   // sysctl_nr_open_max
constexpr std::uint64_t kUserSpaceEnd = 1ULL << 57;
constexpr std::size_t kPathMaximum = 4096;
constexpr std::size_t kCommMaximum = 15;
constexpr std::size_t kRegistersMaximum = 64 << 10;
constexpr int kRegisterSetsMaximum = 16;
constexpr std::size_t kAuxvMaximum = 4096;
constexpr int kSignalMaximum = 64;
constexpr std::uint32_t kProtection = PROT_READ | PROT_WRITE | PROT_EXEC;

template <typename... Args>
[[noreturn]] void malformed(fmt::format_string<Args...> format, Args&&... args) {
  throw Error("malformed description: " + fmt::format(format, std::forward<Args>(args)...), EPROTO);
}

void check_path(const std::string& path, std::string_view what) {
  if (path.empty() || path.front() != '/' || path.size() >= kPathMaximum ||
      path.find('\0') != std::string::npos) {
    constexpr std::size_t kShown = 200;
    malformed("{}: '{}' is no absolute path", what, printable(path.substr(0, kShown)));
  }
}

void check_pid(std::int64_t pid, std::string_view what) {
  if (pid < 1 || pid > kPidMaximum) malformed("{}: {} is no process id", what, pid);
}

void check_signal(int signal, std::string_view what) {
  if (signal < 1 || signal > kSignalMaximum) malformed("{}: {} is no signal", what, signal);
}

template <typename Pending>
void check_pending(const Pending& pending, std::string_view what) {
  for (const proto::PendingSignal& signal : pending) {
    if (signal.siginfo().size() != sizeof(siginfo_t)) {
      malformed("{}: a pending signal of {} bytes", what, signal.siginfo().size());
    }
  }
}

void check_identity(const proto::TaskIdentity& identity) {
  check_pid(identity.pid(), "identity");
  check_pid(identity.host_pid(), "identity, on the host");
  check_path(identity.executable(), "executable");
  if (identity.session() < 0 || identity.group() < 0) {
    malformed("identity: session {} and group {}", identity.session(), identity.group());
  }
}

void check_thread(const proto::Thread& thread, bool has_registers) {
  const std::string what = fmt::format("thread {}", thread.tid());
  check_pid(thread.tid(), what);
  if (thread.comm().size() > kCommMaximum || thread.comm().find('\0') != std::string::npos) {
    malformed("{}: a name of {} bytes", what, thread.comm().size());
  }
  const std::size_t vector_bytes = thread.vector_bytes();
  for (const std::size_t bytes : {thread.general_registers().size(), vector_bytes}) {
    if (bytes > kRegistersMaximum) malformed("{}: {} bytes of registers", what, bytes);
    if (has_registers && bytes == 0) malformed("{}: no registers", what);
  }
  if (thread.vector_registers().size() > vector_bytes) {
    malformed("{}: {} bytes in {} of vector registers", what, thread.vector_registers().size(),
              vector_bytes);
  }
  if (thread.further_registers_size() > kRegisterSetsMaximum) {
    malformed("{}: {} register sets", what, thread.further_registers_size());
  }
  for (const proto::RegisterSet& set : thread.further_registers()) {
    const auto known = arch::further_notes();
    if (std::ranges::find(known, static_cast<int>(set.note())) == known.end() ||
        set.content().size() > kRegistersMaximum) {
      malformed("{}: {} bytes in register set {:#x}", what, set.content().size(), set.note());
    }
  }
  if (thread.parent_death_signal() != 0) check_signal(thread.parent_death_signal(), what);
  if (thread.has_blocked_call() && thread.blocked_call().arguments_size() > 6) {
    malformed("{}: a call with {} arguments", what, thread.blocked_call().arguments_size());
  }
  check_pending(thread.pending(), what);
}

void check_threads(const google::protobuf::RepeatedPtrField<proto::Thread>& threads,
                   bool have_registers) {
  std::set<std::int32_t> ids;
  for (const proto::Thread& thread : threads) {
    check_thread(thread, have_registers);
    if (!ids.insert(thread.tid()).second) malformed("thread {} is there twice", thread.tid());
  }
}

void check_threads(const proto::Process& process, SnapshotPart part) {
  if (process.threads().empty()) {
    if (part == SnapshotPart::kWhole) malformed("no threads");
    return;
  }
  check_threads(process.threads(), false);
  if (process.threads(0).tid() != process.identity().pid()) {
    malformed("the first thread is {}, the process {}", process.threads(0).tid(),
              process.identity().pid());
  }
}

std::uint64_t known_area_flags() {
  std::uint64_t flags = 0;
  const auto* type = proto::AreaFlag_descriptor();
  for (int i = 0; i < type->value_count(); ++i) {
    flags |= static_cast<std::uint64_t>(type->value(i)->number());
  }
  return flags;
}

void check_area(const proto::Mapping& area, const proto::Mappings& mappings, Address previous_end) {
  const std::string what = fmt::format("area {:#x}-{:#x}", area.start(), area.end());
  if (!PageRange::make(area.start(), area.end()) || area.end() > kUserSpaceEnd) {
    malformed("{}: no range of pages", what);
  }
  if (area.start() < previous_end) malformed("{}: out of order or overlapping", what);
  if ((area.protection() & ~kProtection) != 0) {
    malformed("{}: protection {:#x}", what, area.protection());
  }
  static const std::uint64_t known_flags = known_area_flags();
  if ((area.flags() & ~known_flags) != 0) malformed("{}: flags {:#x}", what, area.flags());
  if (area.offset() % kPageSize != 0) malformed("{}: offset {}", what, area.offset());
  if (area.name().find('\0') != std::string::npos) malformed("{}: its name", what);
  switch (area.backing()) {
    case proto::BACKING_FILE:
      if (area.file() >= static_cast<std::uint32_t>(mappings.files_size())) {
        malformed("{}: file {} of {}", what, area.file(), mappings.files_size());
      }
      break;
    case proto::BACKING_SHARED_ANONYMOUS:
      if (!area.shared()) malformed("{}: shared memory that is private", what);
      break;
    case proto::BACKING_ANONYMOUS:
      if (area.shared()) malformed("{}: private memory that is shared", what);
      break;
    case proto::BACKING_VDSO:
    case proto::BACKING_VVAR:
      break;
    default:
      malformed("{}: backing {}", what, static_cast<int>(area.backing()));
  }
}

void check_mappings(const proto::Mappings& mappings) {
  Address previous_end = 0;
  for (const proto::Mapping& area : mappings.areas()) {
    check_area(area, mappings, previous_end);
    previous_end = area.end();
  }
  for (const proto::FileIdentity& file : mappings.files()) check_path(file.path(), "mapped file");
  const proto::MemoryMarks& marks = mappings.marks();
  if (marks.auxv().size() > kAuxvMaximum || marks.auxv().size() % (2 * sizeof(long)) != 0) {
    malformed("an auxiliary vector of {} bytes", marks.auxv().size());
  }
}

// Empty, or a sockaddr_in or sockaddr_in6 of this family.
void check_address(const std::string& address, int family, std::string_view what) {
  if (address.empty()) return;
  const std::size_t size = family == AF_INET ? sizeof(sockaddr_in) : sizeof(sockaddr_in6);
  if (address.size() < size || address.size() > sizeof(sockaddr_storage)) {
    malformed("{}: an address of {} bytes", what, address.size());
  }
}

void check_family(int family, std::string_view what) {
  if (family != AF_INET && family != AF_INET6) malformed("{}: address family {}", what, family);
}

void check_tcp(const proto::TcpSocket& socket, std::string_view what) {
  check_family(socket.family(), what);
  check_address(socket.local_address(), socket.family(), what);
  check_address(socket.remote_address(), socket.family(), what);
  if (socket.stream().unsent_bytes() > socket.stream().send().bytes().size()) {
    malformed("{}: {} unsent bytes of {}", what, socket.stream().unsent_bytes(),
              socket.stream().send().bytes().size());
  }
}

void check_udp(const proto::UdpSocket& socket, std::string_view what) {
  check_family(socket.family(), what);
  check_address(socket.local_address(), socket.family(), what);
  check_address(socket.remote_address(), socket.family(), what);
  for (const proto::Datagram& datagram : socket.queue()) {
    check_address(datagram.source_address(), socket.family(), what);
  }
}

void check_pipe(const proto::PipeEnd& pipe, std::string_view what) {
  if (!pipe.packet_mode()) return;
  std::uint64_t sum = 0;
  for (const std::uint32_t size : pipe.packets()) sum += size;
  if (sum != pipe.contents().size()) {
    malformed("{}: packets of {} bytes, {} bytes", what, sum, pipe.contents().size());
  }
}

void check_open_file(const proto::OpenFile& file) {
  const std::string what = fmt::format("open file {}", file.id());
  switch (file.kind_case()) {
    case proto::OpenFile::KIND_NOT_SET:
      malformed("{}: no kind that is known here", what);
    case proto::OpenFile::kRegularFile:
      check_path(file.regular_file().path(), what);
      if (file.regular_file().offset() < 0) malformed("{}: a negative offset", what);
      break;
    case proto::OpenFile::kPipeEnd:
      check_pipe(file.pipe_end(), what);
      break;
    case proto::OpenFile::kEpoll:
      for (const proto::EpollTarget& target : file.epoll().targets()) {
        if (target.fd() < 0) malformed("{}: target {}", what, target.fd());
      }
      break;
    case proto::OpenFile::kUdpSocket:
      check_udp(file.udp_socket(), what);
      break;
    case proto::OpenFile::kTcpSocket:
      check_tcp(file.tcp_socket(), what);
      break;
    default:
      break;
  }
}

void check_fd_table(const proto::FdTable& table) {
  std::set<std::uint32_t> ids;
  for (const proto::OpenFile& file : table.files()) {
    check_open_file(file);
    if (!ids.insert(file.id()).second) malformed("open file {} is there twice", file.id());
  }
  std::set<std::int32_t> numbers;
  for (const proto::Descriptor& descriptor : table.descriptors()) {
    const std::int32_t fd = descriptor.fd();
    if (fd < 0 || fd > kFdMaximum) malformed("descriptor {}", fd);
    if (!numbers.insert(fd).second) malformed("descriptor {} is there twice", fd);
    if (!ids.contains(descriptor.file())) {
      malformed("descriptor {}: open file {} is not there", fd, descriptor.file());
    }
  }
}

void check_limits(const proto::Rlimits& limits) {
  for (const proto::Rlimit& limit : limits.limits()) {
    if (limit.resource() >= RLIM_NLIMITS) malformed("resource limit {}", limit.resource());
    if (limit.soft() > limit.hard()) {
      malformed("resource limit {}: {} of {}", limit.resource(), limit.soft(), limit.hard());
    }
  }
}

void check_process(const proto::Process& process, SnapshotPart part) {
  if (!process.has_identity()) malformed("no identity");
  if (part == SnapshotPart::kWhole) {
    const bool whole = process.has_mappings() && process.has_fd_table() && process.has_signals() &&
                       process.has_credentials() && process.has_rlimits() &&
                       process.has_filesystem_context() && process.has_attributes();
    if (!whole || process.mappings().areas().empty()) malformed("parts are missing");
  }
  check_identity(process.identity());
  check_threads(process, part);
  check_mappings(process.mappings());
  check_fd_table(process.fd_table());
  check_limits(process.rlimits());
  check_pending(process.signals().pending(), "process");
  for (const proto::SignalAction& action : process.signals().actions()) {
    check_signal(action.signal(), "signal action");
  }
  if (process.has_filesystem_context()) {
    check_path(process.filesystem_context().working_directory(), "working directory");
    check_path(process.filesystem_context().root(), "root");
  }
}

}  // namespace

void check_snapshot(const proto::Snapshot& snapshot, SnapshotPart part) {
  if (snapshot.version() == 0 || snapshot.version() > kSnapshotVersion ||
      snapshot.version() + 1 < kSnapshotVersion) {
    malformed("version {}, {} is known here", snapshot.version(), kSnapshotVersion);
  }
  if (snapshot.processes_size() != 1) {
    malformed("{} processes, 1 can be restored", snapshot.processes_size());
  }
  check_process(snapshot.processes(0), part);
}

void check_threads(const google::protobuf::RepeatedPtrField<proto::Thread>& threads) {
  check_threads(threads, true);
}

}  // namespace godwit
