#include "source-agent/capture/epolls.h"

#include <map>

#include "common/kernel/kcmp.h"

namespace godwit {
namespace {

bool names_its_target(const FdFacts& epoll, const EpollLine& line, unsigned occurrence,
                      const FindFd& find) {
  const FdFacts* found = find(line.fd);
  if (found == nullptr) return false;
  const FdFacts& target = *found;
  if (target.stamp.inode != line.inode || target.stamp.device != line.device) return false;
  // Sockets and pipes have an inode each; the anonymous kinds and files share theirs, and a pipe's
  // two ends do. kcmp walks the whole set: only for these.
  if (target.link.starts_with("socket:")) return true;
  return is_epoll_target(epoll.host_pid, epoll.fd, line.fd, occurrence, line.fd);
}

}  // namespace

bool is_epoll(const FdFacts& facts) { return facts.is_anonymous("[eventpoll]"); }

proto::Epoll capture_epoll(const FdFacts& facts, const FindFd& find, Findings& findings) {
  proto::Epoll out;
  std::map<int, unsigned> occurrences;
  for (const EpollLine& line : facts.info.epoll) {
    const unsigned occurrence = occurrences[line.fd]++;
    if (occurrence > 0 || !names_its_target(facts, line, occurrence, find)) {
      refuse(
          findings, "fd-epoll-target", facts.name(),
          fmt::format("its target {} was closed or replaced, but its file is still open elsewhere",
                      line.fd),
          "the process must remove a descriptor from the epoll set before it closes it");
      continue;
    }
    auto* target = out.add_targets();
    target->set_fd(line.fd);
    target->set_events(line.events);
    target->set_data(line.data);
  }
  return out;
}

}  // namespace godwit
