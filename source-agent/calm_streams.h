// Shortly before the switch, connections that have much queued are slowed down.
//
// What is queued in a TCP socket travels in the blackout, and a busy connection queues as much as
// the kernel lets it: tens of megabytes. While the window stays small (TCP_WINDOW_CLAMP) the
// receive queue empties as fast as the program reads; while it may not queue more that is not sent
// (TCP_NOTSENT_LOWAT) the send queue empties as fast as the peer reads. Both are ordinary options
// (tcp(7)), and both are put back before the sockets are described. The values are odd ones, so
// that `migrate recover` knows what a killed agent left.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <vector>

#include "common/base/unique_fd.h"
#include "proto/fd_table.pb.h"
#include "source-agent/capture/fd_table.h"

namespace godwit {

class CalmStreams {
 public:
  // The process runs. Slows down those of its connections that have much queued, as keep_calm()
  // does. Throws Error when the process is gone.
  CalmStreams(pid_t host_pid, const proto::FdTable& fd_table);
  ~CalmStreams();  // puts back what has not been; logs what it can't
  CalmStreams(const CalmStreams&) = delete;
  CalmStreams& operator=(const CalmStreams&) = delete;

  // What is still queued in those that have much; 0: in none of them. The kernel opens a window
  // again when it learns how much memory segments take: that is taken back here, so ask often.
  // One that had little and has much now is slowed down as well.
  std::uint64_t keep_calm();
  // In the blackout, through the duplicates of the process's sockets. The destructor has nothing to
  // do then.
  void put_back(const std::vector<SocketCopy>& sockets) noexcept;

 private:
  struct Stream {
    int fd = -1;  // in the process
    std::uint64_t inode = 0;
    bool calmed = false;
    int window = 0;  // as the options were
    int unsent = 0;
  };
  // A duplicate for microseconds; invalid when the process has closed it.
  UniqueFd try_copy(const Stream& stream) const;
  static void put_back(int agent_fd, const Stream& stream);

  UniqueFd pidfd_;
  std::vector<Stream> streams_;
};

// Puts right a socket that a killed agent left slowed down.
void release_calmed_stream(int agent_fd);

}  // namespace godwit
