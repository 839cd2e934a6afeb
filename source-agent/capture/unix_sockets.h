// Unix sockets of which both ends are in the process (unix(7), proto/unix_sockets.proto).
//
// What is queued is read with MSG_PEEK under SO_PEEK_OFF on a duplicate, so it stays where it is.
// Sockets with a name, a listening one, an end outside the process and descriptors in flight are
// refused.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <unordered_map>

#include "common/kernel/sock_diag.h"
#include "common/model/findings.h"
#include "proto/unix_sockets.pb.h"
#include "source-agent/capture/fd_facts.h"

namespace godwit {

// Looks unix sockets up; one dump of the kernel's table once there are more than a few questions.
class UnixTable {
 public:
  // nullopt: not in this network namespace.
  std::optional<UnixDiag> find(std::uint64_t inode);

 private:
  int questions_ = 0;
  std::unordered_map<std::uint64_t, UnixDiag> all_;
};

// Needs facts.copy. `contents`: the queue as well; the process must be stopped.
// `is_own_socket` says whether a socket inode is among the process's descriptors.
proto::UnixSocket capture_unix_socket(const FdFacts& facts, bool contents,
                                      const std::function<bool(std::uint64_t)>& is_own_socket,
                                      UnixTable& table, Findings& findings);

}  // namespace godwit
