// One netlink socket of libnl (netlink(7)): ask, and walk through the answers.
#pragma once

#include <netlink/msg.h>
#include <netlink/netlink.h>

#include <functional>
#include <memory>
#include <string>

namespace godwit {

// Owned netlink message.
struct NetlinkMessageDeleter {
  void operator()(nl_msg* message) const { nlmsg_free(message); }
};
using NetlinkMessage = std::unique_ptr<nl_msg, NetlinkMessageDeleter>;

class Netlink {
 public:
  // Opens a socket in the calling thread's network namespace; `protocol` is NETLINK_ROUTE and the
  // like. Throws Error.
  Netlink(int protocol, std::string name);

  // A request of `type` with `flags` (NLM_F_REQUEST is added) and an empty body.
  static NetlinkMessage make_message(int type, int flags);

  // Sends it and calls `answer` for each message that comes back, until the end of the dump or the
  // acknowledgement. Throws Error with the kernel's errno and `what`.
  void ask(const NetlinkMessage& message, const std::string& what,
           const std::function<void(const nlmsghdr&)>& answer);
  // The same, but gives the kernel's errno (0: done) instead of throwing.
  int try_ask(const NetlinkMessage& message, const std::function<void(const nlmsghdr&)>& answer);

  nl_sock* get() const { return socket_.get(); }

 private:
  struct SocketDeleter {
    void operator()(nl_sock* socket) const { nl_socket_free(socket); }
  };
  std::unique_ptr<nl_sock, SocketDeleter> socket_;
  std::string name_;
};

}  // namespace godwit
