// Descriptors over a unix socket pair (SCM_RIGHTS, unix(7)), one byte of data each.
#pragma once

#include "common/base/unique_fd.h"

namespace godwit {

// Throws Error. The caller keeps its own descriptor.
void send_fd(int socket, int fd);
// Throws Error; an invalid descriptor when the peer closed.
UniqueFd receive_fd(int socket);

}  // namespace godwit
