// What the description of one descriptor has to know of the others; private to fd_table*.cc.
#pragma once

#include <algorithm>
#include <map>
#include <set>

#include "source-agent/capture/fd_table.h"
#include "source-agent/capture/unix_sockets.h"

namespace godwit {

struct FdTableCapture::Files {
  const std::vector<FdFacts>* all = nullptr;  // by number
  std::set<std::uint64_t> own_sockets;        // inodes
  UnixTable unix_table;
  std::map<std::uint64_t, int> pipe_readers;  // inode -> the open file that carries the contents

  const FdFacts* find(int fd) const {
    const auto found = std::ranges::lower_bound(*all, fd, {}, &FdFacts::fd);
    return found != all->end() && found->fd == fd && !found->closed ? &*found : nullptr;
  }
  // In order of their numbers.
  void add_pipe(const FdFacts& facts) {
    if ((facts.info.flags & O_ACCMODE) == O_WRONLY) return;
    pipe_readers.try_emplace(facts.stamp.inode, facts.leader);
  }
};

inline std::vector<FdFacts*> pointers_to(std::vector<FdFacts>& facts) {
  std::vector<FdFacts*> out;
  out.reserve(facts.size());
  for (FdFacts& entry : facts) out.push_back(&entry);
  return out;
}

}  // namespace godwit
