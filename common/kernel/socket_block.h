// Shuts the input of a socket that exists already: a filter that takes zero bytes of every packet
// (socket(7), SO_ATTACH_FILTER and SO_ATTACH_BPF). Output and the socket's state are left alone.
//
// One eBPF program serves all sockets: attaching it costs a tenth of a classic filter, which the
// kernel translates for each. Where eBPF is refused (bpf(2): privileges, sysctl) it is a classic
// one.
#pragma once

#include <optional>
#include <string>

#include "common/base/unique_fd.h"

namespace godwit {

class SocketBlock {
 public:
  // Loads the program: about a millisecond, so before the blackout.
  SocketBlock();

  // From here the socket takes no packet in, silently; replaces the program's own filter. Throws
  // Error.
  void block(int fd) const;

 private:
  UniqueFd program_;  // invalid: no eBPF here
};

// Undoes block() and puts `own_filter` (SO_ATTACH_FILTER's value) back, if there was one.
void unblock_socket_input(int fd, const std::optional<std::string>& own_filter);

// The filter on this socket may be block()'s: the classic form of it, or an eBPF program, which no
// socket that is moved has of its own.
bool is_socket_input_blocked(int fd);

}  // namespace godwit
