#include "source-agent/left_sockets.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <filesystem>

#include "common/base/error.h"
#include "common/base/log.h"
#include "common/kernel/pidfd.h"
#include "common/kernel/socket_block.h"
#include "common/kernel/socket_options.h"
#include "common/kernel/tcp_repair.h"
#include "source-agent/calm_streams.h"

namespace godwit {
namespace {

bool in_repair(int fd) {
  int on = 0;
  socklen_t size = sizeof(on);
  return ::getsockopt(fd, IPPROTO_TCP, TCP_REPAIR, &on, &size) == 0 && on == 1;
}

void release(int fd) {
  const int family = int_socket_option(fd, SOL_SOCKET, SO_DOMAIN);
  if (family != AF_INET && family != AF_INET6) return;
  if (is_socket_input_blocked(fd)) unblock_socket_input(fd, std::nullopt);
  if (int_socket_option(fd, SOL_SOCKET, SO_PROTOCOL) != IPPROTO_TCP) return;
  release_calmed_stream(fd);
  if (!in_repair(fd)) return;
  // The probe makes the peer answer: what could not be sent meanwhile goes out at once.
  leave_tcp_repair(fd, true);
  // Repair mode has forgotten it; without it the port could not be listened on while this lives.
  set_socket_option(fd, {SOL_SOCKET, SO_REUSEADDR, int_option_value(1)});
}

void release_all(pid_t pid) {
  const UniqueFd process = open_pidfd(pid);
  for (const auto& entry : std::filesystem::directory_iterator(fmt::format("/proc/{}/fd", pid))) {
    std::error_code gone;
    const std::string target = std::filesystem::read_symlink(entry.path(), gone);
    if (gone || !target.starts_with("socket:")) continue;
    try {
      const UniqueFd socket = copy_fd_of(process, std::stoi(entry.path().filename()));
      release(socket.get());
    } catch (const Error& error) {
      log_warning("pid={} {}: {}", pid, entry.path().string(), error.what());
    }
  }
}

}  // namespace

void release_left_sockets(pid_t pid) noexcept {
  try {
    release_all(pid);
  } catch (const std::exception& error) {
    log_warning("pid={} sockets: {}", pid, error.what());
  }
}

}  // namespace godwit
