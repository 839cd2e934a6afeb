// What is known of one descriptor before anybody asks what kind it is. The files of the kinds
// (regular_files, pipes, ...) turn it into their message.
#pragma once

#include <fmt/format.h>
#include <sys/types.h>

#include <cstdlib>
#include <memory>
#include <string>

#include "common/base/unique_fd.h"
#include "common/kernel/file_identity.h"
#include "common/kernel/proc_fdinfo.h"
#include "common/kernel/tcp_repair.h"
#include "proto/fd_table.pb.h"

namespace godwit {

enum class FdDepth {
  kShape,     // what the destination can build ahead of the switch; the process may run
  kAhead,     // and what it can fill in ahead: pipes, owners; the process may run
  kContents,  // and what is queued, counted and owned; the process is stopped
  kFinal,     // and the TCP streams; the blackout
};

struct KnownSocket;

struct FdFacts {
  pid_t host_pid = -1;
  int fd = -1;
  std::string link;                // what /proc/PID/fd/N says
  std::uint64_t socket_inode = 0;  // of the link; 0: no socket
  FileStamp stamp;
  bool asked = false;            // its flags come by a row in the process
  bool told = false;             // info has been read
  FdInfo info;                   // flags and offset always; the rest where the kind has it
  KnownSocket* known = nullptr;  // of a TCP socket that describe() has seen, if it was asked for
  TcpFacts before_hold;   // of a TCP socket that was known, as it was when the duplicate was taken
  std::string info_text;  // what `info` was read from
  bool same = false;      // in the blackout: it is as described
  int doubts = 0;         // questions that have not been answered so yet
  bool closed = false;    // in the blackout: it is no more
  bool torn = false;      // replaced while a running process was described, or left out
  int leader = -1;        // the lowest descriptor of the same open file
  std::size_t share_key = 0;             // in the blackout: other ones do not share an open file
  std::size_t rank = 0;                  // kcmp's order among those that could share an open file
  proto::FileOwner owner;                // of the leader
  std::unique_ptr<proto::PipeEnd> pipe;  // of the leader, of a pipe described ahead
  int waiting = 0;                       // bytes in a pipe, in the blackout
  // A duplicate in the agent. Invalid for kinds that are described from /proc, while the process
  // runs: a duplicate keeps a file open that the process closes, so it is taken late and given back
  // soon.
  UniqueFd copy;

  // "fd 7 (/srv/db.log)", for findings and errors.
  std::string name() const { return fmt::format("fd {} ({})", fd, link); }
  bool is_socket() const { return socket_inode != 0; }
  void set_link(std::string now);
  bool is_anonymous(const char* kind) const { return link == std::string("anon_inode:") + kind; }
};

inline void FdFacts::set_link(std::string now) {
  constexpr std::string_view kPrefix = "socket:[";
  link = std::move(now);
  socket_inode =
      link.starts_with(kPrefix) ? std::strtoull(link.c_str() + kPrefix.size(), nullptr, 10) : 0;
}

}  // namespace godwit
