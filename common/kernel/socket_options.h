// Socket options that a program may have set (socket(7), tcp(7), ip(7), ipv6(7), udp(7)), read and
// written as plain bytes, so that what they mean is nobody's business here.
//
// Only those that differ from a new socket's value are read: lists stay short, and what the program
// never touched follows the host it runs on. A new socket of each kind is asked once per process.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace godwit {

struct SocketOptionValue {
  int level = 0;
  int name = 0;
  std::string value;
};

// "SO_REUSEADDR"; "option LEVEL/NAME" for one that is not in the table.
std::string socket_option_name(int level, int name);

// Options of a socket of this family, type and protocol that differ from a new one's. Includes the
// buffer sizes (as the kernel reports them, twice the usable size) with SO_BUF_LOCK, and a classic
// packet filter (SO_ATTACH_FILTER). Throws Error.
std::vector<SocketOptionValue> changed_socket_options(int fd, int family, int type, int protocol);

// How often an option changes.
enum class OptionPace {
  kSettled,  // set when the socket is made
  kLively,   // by programs while they work
  kUrgent,   // and the kernel tunes it by itself, or a socket in repair mode does not show it
};
OptionPace option_pace(int level, int name);
// The same of those of `pace` alone. A sixth of the cost for all that are not settled.
std::vector<SocketOptionValue> changed_socket_options(int fd, int family, int type, int protocol,
                                                      OptionPace pace);

// "cubic": what connections of this host start with, unless told otherwise. Asked once.
const std::string& tcp_congestion_of_new_sockets(int family);

// Sets one as it was read: sizes are halved and forced, SO_BUF_LOCK must come after them; an empty
// SO_ATTACH_FILTER takes the filter away. Throws Error naming the option.
void set_socket_option(int fd, const SocketOptionValue& option);
// Gives the errno (0: set).
int try_set_socket_option(int fd, const SocketOptionValue& option);

// As it is, a new socket's value or not. Throws Error.
SocketOptionValue socket_option(int fd, int level, int name);

// The value of an int option; 0 if the socket does not know it.
int int_socket_option(int fd, int level, int name);
std::string int_option_value(int value);

std::uint64_t socket_inode(int fd);
// The socket belongs to another network namespace than the calling thread. False where an old
// kernel can't tell.
bool is_socket_of_other_network(int fd);

// The interface of SO_BINDTODEVICE; empty: none.
std::string socket_interface(int fd);

// A packet filter on the socket: none, a classic program that can be read, or one that can't be
// (eBPF, or locked).
enum class SocketFilter { kNone, kClassic, kOpaque };
SocketFilter socket_filter(int fd);
std::optional<std::string> classic_socket_filter(int fd);

}  // namespace godwit
