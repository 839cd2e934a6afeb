#include "dest-agent/restore/fd_plan.h"

#include <fcntl.h>
#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <set>

#include "dest-agent/restore/tcp_sockets.h"

namespace godwit {

const std::uint32_t kSettableFlags = O_APPEND | O_NONBLOCK | O_DIRECT | O_NOATIME;

namespace {

using FilesById = std::map<std::uint32_t, const proto::OpenFile*>;

FilesById by_id(const proto::FdTable& table) {
  FilesById out;
  for (const auto& file : table.files()) out[file.id()] = &file;
  return out;
}

// The ends of a unix pair are born together.
void make_peers_too(const proto::FdTable& want, std::set<std::uint32_t>& make) {
  std::map<std::uint64_t, std::uint32_t> id_of_inode;
  for (const auto& file : want.files()) {
    if (file.has_unix_socket()) id_of_inode[file.unix_socket().inode()] = file.id();
  }
  for (const auto& file : want.files()) {
    if (!file.has_unix_socket() || make.count(file.id()) == 0) continue;
    const auto peer = id_of_inode.find(file.unix_socket().peer());
    if (peer != id_of_inode.end()) make.insert(peer->second);
  }
}

bool stands(const proto::OpenFile& have, const proto::OpenFile& want) {
  if (make_key(have) != make_key(want)) return false;
  return !want.has_tcp_socket() || same_prepared(have.tcp_socket(), want.tcp_socket());
}

std::set<std::uint32_t> files_to_make(const FilesById& have, const proto::FdTable& want) {
  std::set<std::uint32_t> make;
  for (const auto& file : want.files()) {
    const auto found = have.find(file.id());
    if (found == have.end() || !stands(*found->second, file)) make.insert(file.id());
  }
  make_peers_too(want, make);
  return make;
}

}  // namespace

std::string make_key(const proto::OpenFile& file) {
  const auto fixed_flags = file.status_flags() & ~(kSettableFlags | O_ASYNC);
  switch (file.kind_case()) {
    case proto::OpenFile::kRegularFile:
      return fmt::format("file {:#o} {:#o} {} {}", fixed_flags, file.regular_file().mode() & S_IFMT,
                         file.regular_file().inode(), file.regular_file().path());
    case proto::OpenFile::kPipeEnd:
      return fmt::format("pipe {:#o} {}", fixed_flags, file.pipe_end().pipe());
    case proto::OpenFile::kEventfd:
      return fmt::format("eventfd {}", file.eventfd().semaphore());
    case proto::OpenFile::kEpoll:
      return "epoll";
    case proto::OpenFile::kTimerfd:
      return fmt::format("timerfd {}", file.timerfd().clock());
    case proto::OpenFile::kSignalfd:
      return fmt::format("signalfd {:#x}", file.signalfd().mask());
    case proto::OpenFile::kUnixSocket: {
      const auto& socket = file.unix_socket();
      return fmt::format("unix {} {} {} {} {} {}", socket.type(), socket.inode(), socket.peer(),
                         socket.connected(), socket.creator_uid(), socket.creator_gid());
    }
    case proto::OpenFile::kUdpSocket: {
      auto socket = file.udp_socket();
      socket.clear_queue();  // the rest is what it is prepared from
      return "udp " + socket.SerializeAsString();
    }
    case proto::OpenFile::kTcpSocket:
      return fmt::format("tcp {} {}", file.tcp_socket().family(), file.tcp_socket().inode());
    case proto::OpenFile::kInStreams:  // replaced by then
    case proto::OpenFile::KIND_NOT_SET:
      break;
  }
  return "nothing";
}

proto::FdTable touched_part(const proto::FdTable& have, const proto::FdTable& changes) {
  std::set<int> numbers(changes.closed().begin(), changes.closed().end());
  for (const auto& entry : changes.descriptors()) numbers.insert(entry.fd());
  const auto find = [](const auto& entries, auto key, auto key_of) {
    const auto found =
        std::lower_bound(entries.begin(), entries.end(), key,
                         [&](const auto& entry, auto wanted) { return key_of(entry) < wanted; });
    return found != entries.end() && key_of(*found) == key ? &*found : nullptr;
  };
  const auto fd_of = [](const proto::Descriptor& entry) { return entry.fd(); };
  const auto id_of = [](const proto::OpenFile& file) { return file.id(); };
  proto::FdTable out;
  std::set<std::uint32_t> files;
  for (const int fd : numbers) {
    const proto::Descriptor* entry = find(have.descriptors(), fd, fd_of);
    if (entry == nullptr) continue;
    *out.add_descriptors() = *entry;
    files.insert(entry->file());
  }
  for (const std::uint32_t id : files) {
    if (const proto::OpenFile* file = find(have.files(), id, id_of)) *out.add_files() = *file;
  }
  return out;
}

FdPlan plan_fd_table(const proto::FdTable& have, const proto::FdTable& want) {
  FdPlan plan;
  const std::set<std::uint32_t> make = files_to_make(by_id(have), want);
  plan.make.assign(make.begin(), make.end());
  std::map<int, FdPlan::Descriptor> wanted;
  for (const auto& entry : want.descriptors()) {
    wanted[entry.fd()] = {entry.fd(), entry.file(), entry.close_on_exec()};
  }
  std::map<int, FdPlan::Descriptor> standing;
  for (const auto& entry : have.descriptors()) {
    const auto found = wanted.find(entry.fd());
    if (found != wanted.end() && found->second.file == entry.file() &&
        make.count(entry.file()) == 0) {
      standing[entry.fd()] = {entry.fd(), entry.file(), entry.close_on_exec()};
    } else {
      plan.close.push_back(entry.fd());
    }
  }
  for (const auto& [fd, entry] : wanted) {
    const auto found = standing.find(fd);
    if (found == standing.end()) {
      // A new file's own descriptor comes with its making.
      if (static_cast<std::uint32_t>(fd) != entry.file) plan.duplicate.push_back(entry);
    } else if (found->second.close_on_exec != entry.close_on_exec) {
      plan.set_close_on_exec.push_back(entry);
    }
  }
  return plan;
}

std::string FdPlan::print() const {
  std::string out;
  for (const int fd : close) out += fmt::format("close {}\n", fd);
  for (const auto id : make) out += fmt::format("make {}\n", id);
  for (const auto& entry : duplicate) {
    out += fmt::format("duplicate {} to {}{}\n", entry.file, entry.fd,
                       entry.close_on_exec ? " cloexec" : "");
  }
  for (const auto& entry : set_close_on_exec) {
    out += fmt::format("cloexec {} {}\n", entry.fd, entry.close_on_exec ? "on" : "off");
  }
  return out;
}

}  // namespace godwit
