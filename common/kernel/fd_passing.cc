#include "common/kernel/fd_passing.h"

#include <sys/socket.h>

#include <cstring>

#include "common/base/error.h"

namespace godwit {
namespace {

// Nothing: the peer has closed. Kind 0: nothing has come.
std::optional<Passed> receive_passed(int socket, int flags) {
  Passed passed;
  iovec data{&passed.kind, 1};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr message{};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof(control);
  ssize_t got = 0;
  do {
    got = ::recvmsg(socket, &message, MSG_CMSG_CLOEXEC | flags);
  } while (got < 0 && errno == EINTR);
  if (got < 0 && errno == EAGAIN) return passed;
  if (got < 0 && errno != ECONNRESET) throw_system("receiving a descriptor");
  if (got <= 0) return std::nullopt;
  const cmsghdr* header = CMSG_FIRSTHDR(&message);
  if (header != nullptr && header->cmsg_type == SCM_RIGHTS) {
    int fd = -1;
    std::memcpy(&fd, CMSG_DATA(header), sizeof(int));
    passed.fd.reset(fd);
  }
  return passed;
}

}  // namespace

void send_fd(int socket, int fd, char kind) {
  iovec data{&kind, 1};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr message{};
  message.msg_iov = &data;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof(control);
  cmsghdr* header = CMSG_FIRSTHDR(&message);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN(sizeof(int));
  std::memcpy(CMSG_DATA(header), &fd, sizeof(int));
  if (::sendmsg(socket, &message, MSG_NOSIGNAL) < 0) throw_system("passing descriptor {}", fd);
}

UniqueFd receive_fd(int socket, char* kind) {
  std::optional<Passed> passed = receive_passed(socket, 0);
  if (!passed) return UniqueFd();
  if (kind != nullptr) *kind = passed->kind;
  return std::move(passed->fd);
}

std::optional<Passed> try_receive_passed(int socket) {
  std::optional<Passed> passed = receive_passed(socket, MSG_DONTWAIT);
  if (!passed) throw Error("the other end is gone", ECONNRESET);
  if (passed->kind == 0) return std::nullopt;
  return passed;
}

}  // namespace godwit
