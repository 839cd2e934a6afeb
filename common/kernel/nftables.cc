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

// The library ends the process where there is no such socket.
nft_ctx* new_context() {
  const UniqueFd probe(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_NETFILTER));
  if (!probe.valid()) {
    throw Error("nftables: netlink socket: " + errno_text(errno), errno, kWayOut);
  }
  return nft_ctx_new(NFT_CTX_DEFAULT);
}

}  // namespace

Nftables::Nftables() : context_(new_context()) {
  if (!context_) throw_errno(ENOMEM, "nftables context");
  nft_ctx_buffer_error(context_.get());
  nft_ctx_buffer_output(context_.get());
}

bool Nftables::try_run(const std::string& commands) {
  return nft_run_cmd_from_buffer(context_.get(), commands.c_str()) == 0;
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
