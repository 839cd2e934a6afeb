#include "dest-agent/restore/epolls.h"

#include <fmt/format.h>
#include <sys/epoll.h>
#include <sys/syscall.h>

namespace godwit {
namespace {

void append_control(SyscallBatch& batch, std::uint32_t set, int operation, int fd,
                    std::uint32_t events, std::uint64_t data) {
  epoll_event event{};
  event.events = events;
  event.data.u64 = data;
  const DataAt at = batch.put_value(event);
  batch.add(SYS_epoll_ctl, {set, operation, fd, at},
            fmt::format("fd {}: epoll target {}", set, fd));
}

}  // namespace

RowResult append_epoll(SyscallBatch& batch, const proto::OpenFile& file) {
  return batch.add(SYS_epoll_create1, {EPOLL_CLOEXEC}, fmt::format("fd {}: epoll", file.id()));
}

void EpollSets::append_removals(SyscallBatch& batch, const std::vector<int>& closing) {
  for (const int fd : closing) sets_.erase(static_cast<std::uint32_t>(fd));
  for (auto& [id, set] : sets_) {
    for (const int fd : closing) {
      if (set.have.erase(fd) == 0) continue;
      append_control(batch, id, EPOLL_CTL_DEL, fd, 0, 0);
      set.lacks = true;
    }
  }
}

void EpollSets::append_difference(SyscallBatch& batch, std::uint32_t id, Set& set) {
  for (const auto& [fd, target] : set.have) {
    if (set.wanted.count(fd) == 0) append_control(batch, id, EPOLL_CTL_DEL, fd, 0, 0);
  }
  for (const auto& [fd, target] : set.wanted) {
    const auto found = set.have.find(fd);
    if (found == set.have.end()) {
      append_control(batch, id, EPOLL_CTL_ADD, fd, target.events, target.data);
    } else if (found->second == target) {
      continue;
    } else if (((target.events | found->second.events) & EPOLLEXCLUSIVE) != 0) {
      append_control(batch, id, EPOLL_CTL_DEL, fd, 0, 0);  // exclusive ones are only added
      append_control(batch, id, EPOLL_CTL_ADD, fd, target.events, target.data);
    } else {
      append_control(batch, id, EPOLL_CTL_MOD, fd, target.events, target.data);
    }
  }
  set.have = set.wanted;
  set.lacks = false;
}

void EpollSets::append_changes(SyscallBatch& batch, const proto::FdTable& want) {
  for (const auto& file : want.files()) {
    if (!file.has_epoll()) continue;
    Set& set = sets_[file.id()];
    set.wanted.clear();
    for (const auto& target : file.epoll().targets()) {
      set.wanted[target.fd()] = {target.events(), target.data()};
    }
    append_difference(batch, file.id(), set);
  }
  for (auto& [id, set] : sets_) {
    if (set.lacks) append_difference(batch, id, set);
  }
}

}  // namespace godwit
