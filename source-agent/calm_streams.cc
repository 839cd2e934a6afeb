#include "source-agent/calm_streams.h"

#include <netinet/in.h>
#include <netinet/tcp.h>

#include <algorithm>

#include "common/base/error.h"
#include "common/base/log.h"
#include "common/kernel/pidfd.h"
#include "common/kernel/socket_options.h"
#include "common/kernel/tcp_repair.h"

namespace godwit {
namespace {

constexpr std::uint32_t kMuchBytes = 256 << 10;
constexpr int kCalmWindowBytes = (64 << 10) - 7;
constexpr int kCalmUnsentBytes = (64 << 10) - 9;
constexpr int kAnyWindowBytes = 1 << 30;  // the buffer's size stays the bound

// 0 when it is not much.
std::uint64_t much_queued(int fd) {
  const TcpQueueLengths lengths = tcp_queue_lengths(fd);
  const bool much = lengths.receive > kMuchBytes || lengths.unsent > kMuchBytes;
  return much ? std::uint64_t{lengths.receive} + lengths.unsent : 0;
}

void set_tcp(int fd, int name, int value) {
  set_socket_option(fd, {IPPROTO_TCP, name, int_option_value(value)});
}

void narrow(int fd) {
  if (int_socket_option(fd, IPPROTO_TCP, TCP_WINDOW_CLAMP) > kCalmWindowBytes) {
    set_tcp(fd, TCP_WINDOW_CLAMP, kCalmWindowBytes);
  }
}

}  // namespace

CalmStreams::CalmStreams(pid_t host_pid, const proto::FdTable& fd_table)
    : pidfd_(open_pidfd(host_pid)) {
  for (const proto::OpenFile& file : fd_table.files()) {
    const auto state = static_cast<TcpState>(file.tcp_socket().state());
    if (!file.has_tcp_socket() || !has_tcp_stream(state)) continue;
    streams_.push_back({static_cast<int>(file.id()), file.tcp_socket().inode()});
  }
  keep_calm();
}

CalmStreams::~CalmStreams() {
  for (const Stream& stream : streams_) {
    if (!stream.calmed) continue;
    try {
      const UniqueFd copy = try_copy(stream);
      if (copy.valid()) put_back(copy.get(), stream);
    } catch (const std::exception& error) {
      log_error("fd {} stays slowed down: {}", stream.fd, error.what());
    }
  }
}

UniqueFd CalmStreams::try_copy(const Stream& stream) const {
  try {
    UniqueFd copy = copy_fd_of(pidfd_, stream.fd);
    // The number may have come to mean another file.
    return socket_inode(copy.get()) == stream.inode ? std::move(copy) : UniqueFd();
  } catch (const Error& error) {
    if (error.code() != EBADF && error.code() != ESRCH) throw;
    return {};
  }
}

std::uint64_t CalmStreams::keep_calm() {
  std::uint64_t bytes = 0;
  for (Stream& stream : streams_) {
    const UniqueFd copy = try_copy(stream);
    if (!copy.valid()) continue;
    const std::uint64_t queued = much_queued(copy.get());
    if (queued > 0 && !stream.calmed) {
      stream.window = int_socket_option(copy.get(), IPPROTO_TCP, TCP_WINDOW_CLAMP);
      stream.unsent = int_socket_option(copy.get(), IPPROTO_TCP, TCP_NOTSENT_LOWAT);
      stream.calmed = true;
      set_tcp(copy.get(), TCP_NOTSENT_LOWAT, kCalmUnsentBytes);
    }
    if (stream.calmed) narrow(copy.get());
    bytes += queued;
  }
  return bytes;
}

// The kernel widens the window itself when it gives a socket a larger buffer: that stays.
void CalmStreams::put_back(int agent_fd, const Stream& stream) {
  set_tcp(agent_fd, TCP_NOTSENT_LOWAT, stream.unsent);
  const int window = int_socket_option(agent_fd, IPPROTO_TCP, TCP_WINDOW_CLAMP);
  if (window < stream.window) set_tcp(agent_fd, TCP_WINDOW_CLAMP, stream.window);
}

void CalmStreams::put_back(const std::vector<SocketCopy>& sockets) noexcept {
  for (const Stream& stream : streams_) {
    if (!stream.calmed) continue;
    const auto copy = std::find_if(sockets.begin(), sockets.end(), [&](const SocketCopy& socket) {
      return socket.inode == stream.inode;
    });
    if (copy == sockets.end()) continue;  // closed since
    try {
      put_back(copy->agent_fd, stream);
    } catch (const std::exception& error) {
      log_error("fd {} stays slowed down: {}", stream.fd, error.what());
    }
  }
  streams_.clear();
}

void release_calmed_stream(int agent_fd) {
  if (int_socket_option(agent_fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT) == kCalmUnsentBytes) {
    set_tcp(agent_fd, TCP_NOTSENT_LOWAT, 0);
  }
  if (int_socket_option(agent_fd, IPPROTO_TCP, TCP_WINDOW_CLAMP) == kCalmWindowBytes) {
    set_tcp(agent_fd, TCP_WINDOW_CLAMP, kAnyWindowBytes);
  }
}

}  // namespace godwit
