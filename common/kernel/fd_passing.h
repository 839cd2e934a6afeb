// Descriptors over a unix socket pair (SCM_RIGHTS, unix(7)), one byte of data each,
// which says what the descriptor is.
#pragma once

#include <optional>

#include "common/base/unique_fd.h"

namespace godwit {

// Throws Error. The caller keeps its own descriptor.
void send_fd(int socket, int fd, char kind = 'F');
// Throws Error; an invalid descriptor when the peer closed. `*kind`: as sent.
UniqueFd receive_fd(int socket, char* kind = nullptr);

// What has come, with or without a descriptor; nothing when there is nothing more. Throws Error
// with code ECONNRESET when the peer has closed.
struct Passed {
  char kind = 0;
  UniqueFd fd;
};
std::optional<Passed> try_receive_passed(int socket);

}  // namespace godwit
