#include "common/kernel/nftables.h"

// The header of version 1.0.6 declares C functions without saying so to C++.
extern "C" {
#include <nftables/libnftables.h>
}

#include <linux/netlink.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>

#include "common/base/error.h"
#include "common/base/unique_fd.h"

namespace godwit {

void Nftables::Deleter::operator()(nft_ctx* context) const { nft_ctx_free(context); }

namespace {

constexpr const char* kWayOut =
    "CONFIG_NF_TABLES_INET and CONFIG_NETFILTER_NETLINK_LOG must be in the kernel or loadable";

bool is_netfilter_socket(int fd) {
  int domain = 0;
  int protocol = 0;
  socklen_t bytes = sizeof domain;
  if (::getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &bytes) != 0) return false;
  bytes = sizeof protocol;
  if (::getsockopt(fd, SOL_SOCKET, SO_PROTOCOL, &protocol, &bytes) != 0) return false;
  return domain == AF_NETLINK && protocol == NETLINK_NETFILTER;
}

// The library ends the process where there is no such socket. It does not tell of its own, which
// gets the lowest number that is free.
std::pair<nft_ctx*, int> new_context() {
  UniqueFd probe(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_NETFILTER));
  if (!probe.valid()) {
    throw Error("nftables: netlink socket: " + errno_text(errno), errno, kWayOut);
  }
  const int lowest = probe.get();
  probe.reset();
  nft_ctx* context = nft_ctx_new(NFT_CTX_DEFAULT);
  return {context, is_netfilter_socket(lowest) ? lowest : -1};
}

}  // namespace

Nftables::Nftables() : Nftables(new_context()) {}

Nftables::Nftables(std::pair<nft_ctx*, int> context)
    : context_(context.first), socket_(context.second) {
  if (!context_) throw_errno(ENOMEM, "nftables context");
  nft_ctx_buffer_error(context_.get());
  nft_ctx_buffer_output(context_.get());
}

bool Nftables::try_run(const std::string& commands) {
  return nft_run_cmd_from_buffer(context_.get(), commands.c_str()) == 0;
}

void Nftables::run(const NftTransaction& transaction) {
  if (socket_ < 0) return run(transaction.commands());
  if (const int code = transaction.try_send(socket_); code != 0) {
    throw Error(fmt::format("nftables: {}: {}", transaction.commands(), errno_text(code)), code,
                kWayOut);
  }
}

void Nftables::run(const std::string& commands) {
  if (try_run(commands)) return;
  constexpr std::size_t kStoryBytesMax = 400;  // nft repeats the commands, which may be long
  std::string story = nft_ctx_get_error_buffer(context_.get());
  story.resize(std::min(story.size(), kStoryBytesMax));
  std::replace(story.begin(), story.end(), '\n', ' ');
  throw Error("nftables: " + story, 0, kWayOut);
}

}  // namespace godwit
