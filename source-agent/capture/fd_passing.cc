// Descriptors that can't be moved as they are at this instant, and in the next one mostly can: a
// lock that is held for a transaction, a file of /proc that is read, a connection that is being
// made. What lasts is refused before anything is touched; what passes is waited for.
#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <chrono>
#include <thread>

#include "common/base/clock.h"
#include "source-agent/capture/epolls.h"
#include "source-agent/capture/eventfds.h"
#include "source-agent/capture/fd_table.h"
#include "source-agent/capture/foreign_files.h"
#include "source-agent/capture/pipes.h"
#include "source-agent/capture/signalfds.h"
#include "source-agent/capture/tcp_sockets.h"
#include "source-agent/capture/timerfds.h"

namespace godwit {
namespace {

constexpr std::int64_t kLookingNs = 600'000'000;
constexpr std::chrono::microseconds kBetweenLooks(300);

// Of the refusals in `findings` only those that `again` has too.
void keep_refusals(Findings& findings, const Findings& again) {
  std::erase_if(findings, [&](const proto::Finding& finding) {
    return !finding.warning() &&
           std::none_of(again.begin(), again.end(), [&](const proto::Finding& other) {
             return other.id() == finding.id() && other.object() == finding.object();
           });
  });
}

// Files that are written are locked; only those are looked at again.
bool may_be_locked(const FdFacts& facts) {
  return S_ISREG(facts.stamp.mode) && (facts.info.flags & O_ACCMODE) != O_RDONLY;
}

bool is_always_movable(const FdFacts& facts) {
  return is_pipe(facts) || is_eventfd(facts) || is_epoll(facts) || is_timerfd(facts) ||
         is_signalfd(facts);
}

}  // namespace

// A program at work takes the same lock on the same file again and again, and may hold it most of
// the time: waiting for the disk is part of a transaction.
void FdTableCapture::examine(Findings& findings) {
  const std::int64_t end_ns = monotonic_ns() + kLookingNs;
  Findings lasting = examine_once();
  while (refuses(lasting) && monotonic_ns() < end_ns) {
    std::this_thread::sleep_for(kBetweenLooks);
    keep_refusals(lasting, examine_once());
  }
  findings.insert(findings.end(), lasting.begin(), lasting.end());
}

// As long as a lock is held there may be files that are gone after it, such as a journal: none that
// is written can be relied on to be there when the destination opens it.
void FdTableCapture::leave_out_transaction(std::vector<FdFacts>& facts) {
  const bool locked = std::any_of(facts.begin(), facts.end(),
                                  [](const FdFacts& entry) { return !entry.info.locks.empty(); });
  if (locked) std::erase_if(facts, may_be_locked);
}

Findings FdTableCapture::find_passing_running() {
  std::vector<FdFacts> facts = read_running();
  return find_passing_among(facts);
}

Findings FdTableCapture::find_passing() { return find_passing_among(kept_); }

Findings FdTableCapture::find_passing_among(std::vector<FdFacts>& facts) {
  Findings found;
  auto before = shape_.begin();  // both by descriptor, ascending
  for (FdFacts& entry : facts) {
    if (entry.is_socket()) {
      examine_passing_socket(entry, found);
      continue;
    }
    if (entry.same) continue;
    while (before != shape_.end() && before->fd < entry.fd) ++before;
    const bool known = before != shape_.end() && before->fd == entry.fd &&
                       before->stamp.is_same_file(entry.stamp) && before->link == entry.link;
    if (known ? !may_be_locked(*before) : is_always_movable(entry)) continue;
    read_info(entry);
    if (is_path_file(entry)) {
      regular_files_.describe(entry, found);
    } else {
      refuse_foreign_file(entry, found);
    }
  }
  std::erase_if(found, [](const proto::Finding& finding) { return finding.warning(); });
  return found;
}

// One of another kind, such as a resolver's, or a connection that is being made. The rest of what
// there is to say about a socket does not pass.
void FdTableCapture::examine_passing_socket(const FdFacts& facts, Findings& findings) const {
  const KnownSocket* known = find_known(facts);
  if (known != nullptr && static_cast<TcpState>(known->described.state()) != TcpState::kClose) {
    return;
  }
  UniqueFd own;
  if (!facts.copy.valid()) own = copy_fd(facts.fd);
  const int fd = facts.copy.valid() ? facts.copy.get() : own.get();
  if (fd < 0) return;  // closed meanwhile
  const SocketType type = socket_type(facts, fd);
  if (type.is_tcp()) {
    examine_tcp_connecting(fd, facts.name(), findings);
  } else if (!type.is_udp() && !type.is_unix()) {
    refuse_foreign_socket(facts, type.family, type.type, type.protocol, findings);
  }
}

}  // namespace godwit
