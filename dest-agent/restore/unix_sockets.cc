#include "dest-agent/restore/unix_sockets.h"

#include <sys/socket.h>
#include <sys/syscall.h>

#include <cstring>

#include "common/base/error.h"

namespace godwit {
namespace {

constexpr int kUnchanged = -1;

void set_option(int fd, int level, int name, const void* value, std::size_t bytes,
                std::uint32_t id) {
  if (setsockopt(fd, level, name, value, static_cast<socklen_t>(bytes)) != 0) {
    throw_system("fd {}: set socket option {} of level {}", id, name, level);
  }
}

// The kernel keeps twice the value that is set.
void set_buffer(int fd, int name, std::uint32_t kept, std::uint32_t id) {
  const int value = static_cast<int>(kept / 2);
  set_option(fd, SOL_SOCKET, name, &value, sizeof value, id);
}

// The receiver sees who sent a message: the process itself, with the ids it had.
void send_message(int from, const std::string& message, const proto::MessageSender* sender,
                  pid_t process, bool stream, std::uint32_t id) {
  std::size_t sent = 0;
  do {
    iovec part{const_cast<char*>(message.data()) + sent, message.size() - sent};
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(ucred))] = {};
    msghdr header{};
    header.msg_iov = &part;
    header.msg_iovlen = 1;
    if (sender != nullptr) {
      header.msg_control = control;
      header.msg_controllen = sizeof control;
      cmsghdr* credentials = CMSG_FIRSTHDR(&header);
      credentials->cmsg_level = SOL_SOCKET;
      credentials->cmsg_type = SCM_CREDENTIALS;
      credentials->cmsg_len = CMSG_LEN(sizeof(ucred));
      const ucred who{process, sender->uid(), sender->gid()};
      std::memcpy(CMSG_DATA(credentials), &who, sizeof who);
    }
    const auto bytes = sendmsg(from, &header, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (bytes < 0) throw_system("fd {}: queue {} bytes again", id, message.size());
    sent += static_cast<std::size_t>(bytes);
  } while (stream && sent < message.size());
}

}  // namespace

void UnixPairs::append_make(SyscallBatch& batch, const std::vector<const proto::OpenFile*>& files) {
  std::map<std::uint64_t, std::uint32_t> id_of_inode;
  for (const auto* file : files) id_of_inode[file->unix_socket().inode()] = file->id();
  for (const auto* file : files) {
    const auto& socket = file->unix_socket();
    const std::string name = fmt::format("fd {}: unix socket", file->id());
    Born born;
    born.first = file->id();
    if (!socket.connected()) {
      born.single = batch.add(SYS_socket, {AF_UNIX, socket.type() | SOCK_CLOEXEC, 0}, name);
      born_.push_back(born);
      continue;
    }
    if (const auto peer = id_of_inode.find(socket.peer()); peer != id_of_inode.end()) {
      if (peer->second < file->id()) continue;  // made with its peer
      born.second = peer->second;
      born.has_second = peer->second != file->id();
    }
    born.pair = true;
    born.numbers = batch.reserve(2 * sizeof(int));
    // SO_PEERCRED is the effective ids of whoever makes the pair.
    const bool other_ids = socket.creator_uid() != 0 || socket.creator_gid() != 0;
    if (other_ids) {
      batch.add(SYS_setresgid, {kUnchanged, socket.creator_gid(), kUnchanged}, name);
      batch.add(SYS_setresuid, {kUnchanged, socket.creator_uid(), kUnchanged}, name);
    }
    batch.add(SYS_socketpair, {AF_UNIX, socket.type() | SOCK_CLOEXEC, 0, born.numbers}, name);
    if (other_ids) {
      batch.add(SYS_setresuid, {kUnchanged, 0, kUnchanged}, name);
      batch.add(SYS_setresgid, {kUnchanged, 0, kUnchanged}, name);
    }
    born_.push_back(born);
  }
}

std::map<std::uint32_t, int> UnixPairs::collect(RemoteTask& task, const BatchOutcome& outcome) {
  std::map<std::uint32_t, int> out;
  SyscallBatch closes;
  for (const Born& born : born_) {
    if (!born.pair) {
      out[born.first] = static_cast<int>(outcome[born.single]);
      ends_[born.first].own = task.copy_fd(out[born.first]);
      continue;
    }
    const int first = outcome.value<int>(born.numbers);
    const int second = outcome.value<int>(born.numbers + sizeof(int));
    out[born.first] = first;
    ends_[born.first].own = task.copy_fd(first);
    if (born.has_second) {
      out[born.second] = second;
      ends_[born.second].own = task.copy_fd(second);
    } else {
      ends_[born.first].closed_peer = task.copy_fd(second);
      closes.add(SYS_close, {second});
    }
  }
  born_.clear();
  if (!closes.empty()) task.run(closes);
  return out;
}

void UnixPairs::fill(const proto::FdTable& want, pid_t skeleton) {
  std::map<std::uint64_t, std::uint32_t> id_of_inode;
  for (const auto& file : want.files()) {
    if (!file.has_unix_socket()) continue;
    id_of_inode[file.unix_socket().inode()] = file.id();
    // Before anything is sent: SO_PASSCRED decides what a message carries.
    for (const auto& option : file.unix_socket().options()) {
      set_option(ends_.at(file.id()).own.get(), option.level(), option.name(),
                 option.value().data(), option.value().size(), file.id());
    }
  }
  for (const auto& file : want.files()) {
    if (!file.has_unix_socket() || file.unix_socket().messages_size() == 0) continue;
    const auto& socket = file.unix_socket();
    const auto peer = id_of_inode.find(socket.peer());
    const int from = peer != id_of_inode.end() ? ends_.at(peer->second).own.get()
                                               : ends_.at(file.id()).closed_peer.get();
    std::size_t bytes = 0;
    for (const auto& message : socket.messages()) bytes += message.size() + 2048;
    set_buffer(from, SO_SNDBUFFORCE, static_cast<std::uint32_t>(4 * bytes), file.id());
    for (int at = 0; at < socket.messages_size(); ++at) {
      send_message(from, socket.messages(at),
                   at < socket.senders_size() ? &socket.senders(at) : nullptr, skeleton,
                   socket.type() == SOCK_STREAM, file.id());
    }
  }
  for (const auto& file : want.files()) {
    if (!file.has_unix_socket()) continue;
    const auto& socket = file.unix_socket();
    const int own = ends_.at(file.id()).own.get();
    set_buffer(own, SO_SNDBUFFORCE, socket.send_buffer(), file.id());
    set_buffer(own, SO_RCVBUFFORCE, socket.receive_buffer(), file.id());
    // SHUT_RD is 0, SHUT_WR 1, SHUT_RDWR 2; of an end whose peer is gone it comes by itself.
    const bool peer_gone = socket.peer() == 0 && socket.type() != SOCK_DGRAM;
    if (socket.shutdown() != 0 && socket.connected() && !peer_gone &&
        shutdown(own, static_cast<int>(socket.shutdown()) - 1) != 0) {
      throw_system("fd {}: shut the socket down", file.id());
    }
  }
}

}  // namespace godwit
