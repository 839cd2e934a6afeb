#include "common/kernel/netlink.h"

#include <cerrno>
#include <utility>

#include "common/base/error.h"

namespace godwit {
namespace {

struct Conversation {
  const std::function<void(const nlmsghdr&)>* answer;
  int code = 0;
  bool over = false;
};

int on_message(nl_msg* message, void* argument) {
  auto* conversation = static_cast<Conversation*>(argument);
  (*conversation->answer)(*nlmsg_hdr(message));
  return NL_OK;
}
int on_end(nl_msg*, void* argument) {
  static_cast<Conversation*>(argument)->over = true;
  return NL_STOP;
}
int on_error(sockaddr_nl*, nlmsgerr* error, void* argument) {
  auto* conversation = static_cast<Conversation*>(argument);
  conversation->code = -error->error;
  conversation->over = true;
  return NL_STOP;
}

struct CallbackDeleter {
  void operator()(nl_cb* callbacks) const { nl_cb_put(callbacks); }
};

}  // namespace

Netlink::Netlink(int protocol, std::string name)
    : socket_(nl_socket_alloc()), name_(std::move(name)) {
  if (!socket_) throw_errno(ENOMEM, "netlink socket for " + name_);
  const int code = nl_connect(socket_.get(), protocol);
  if (code < 0) fail("netlink socket for {}: {}", name_, nl_geterror(code));
  nl_socket_disable_auto_ack(socket_.get());
  nl_socket_set_buffer_size(socket_.get(), 1 << 20, 1 << 20);
}

NetlinkMessage Netlink::make_message(int type, int flags) {
  NetlinkMessage message(nlmsg_alloc_simple(type, NLM_F_REQUEST | flags));
  if (!message) throw_errno(ENOMEM, "netlink message");
  return message;
}

int Netlink::try_ask(const NetlinkMessage& message,
                     const std::function<void(const nlmsghdr&)>& answer) {
  Conversation conversation{&answer};
  std::unique_ptr<nl_cb, CallbackDeleter> callbacks(nl_cb_alloc(NL_CB_DEFAULT));
  if (!callbacks) throw_errno(ENOMEM, "netlink callbacks");
  nl_cb_set(callbacks.get(), NL_CB_VALID, NL_CB_CUSTOM, on_message, &conversation);
  nl_cb_set(callbacks.get(), NL_CB_FINISH, NL_CB_CUSTOM, on_end, &conversation);
  nl_cb_set(callbacks.get(), NL_CB_ACK, NL_CB_CUSTOM, on_end, &conversation);
  nl_cb_err(callbacks.get(), NL_CB_CUSTOM, on_error, &conversation);
  int code = nl_send_auto(socket_.get(), message.get());
  if (code < 0) fail("send to {}: {}", name_, nl_geterror(code));
  while (!conversation.over) {
    code = nl_recvmsgs(socket_.get(), callbacks.get());
    if (conversation.code != 0) return conversation.code;
    if (code < 0) fail("receive from {}: {}", name_, nl_geterror(code));
  }
  return 0;
}

void Netlink::ask(const NetlinkMessage& message, const std::string& what,
                  const std::function<void(const nlmsghdr&)>& answer) {
  if (const int code = try_ask(message, answer); code != 0) throw_errno(code, what);
}

}  // namespace godwit
