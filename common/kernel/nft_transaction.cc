#include "common/kernel/nft_transaction.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netlink.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdint>
#include <cstring>

namespace godwit {
namespace {

using Bytes = std::vector<std::byte>;

constexpr std::uint32_t kSequence = 0x60d;  // libnftables counts up from the time of day

void append(Bytes& to, const void* data, std::size_t bytes) {
  const auto* from = static_cast<const std::byte*>(data);
  to.insert(to.end(), from, from + bytes);
}

void append(Bytes& to, const Bytes& from) { append(to, from.data(), from.size()); }

void pad(Bytes& to) { to.resize(NLA_ALIGN(to.size())); }

Bytes attribute(int type, std::span<const std::byte> content) {
  nlattr head{};
  head.nla_type = static_cast<std::uint16_t>(type);
  head.nla_len = static_cast<std::uint16_t>(NLA_HDRLEN + content.size());
  Bytes bytes;
  append(bytes, &head, sizeof head);
  append(bytes, content.data(), content.size());
  pad(bytes);
  return bytes;
}

Bytes nested(int type, std::span<const std::byte> content) {
  return attribute(type | NLA_F_NESTED, content);
}

Bytes text(int type, const std::string& content) {
  return attribute(type, std::as_bytes(std::span(content.c_str(), content.size() + 1)));
}

Bytes message(int type, int flags, int family, int resource, std::span<const std::byte> content) {
  nlmsghdr head{};
  head.nlmsg_type = static_cast<std::uint16_t>(type);
  head.nlmsg_flags = static_cast<std::uint16_t>(NLM_F_REQUEST | flags);
  head.nlmsg_seq = kSequence;
  nfgenmsg body{};
  body.nfgen_family = static_cast<std::uint8_t>(family);
  body.version = NFNETLINK_V0;
  body.res_id = htons(static_cast<std::uint16_t>(resource));
  head.nlmsg_len = static_cast<std::uint32_t>(NLMSG_HDRLEN + sizeof body + content.size());
  Bytes bytes;
  append(bytes, &head, sizeof head);
  append(bytes, &body, sizeof body);
  append(bytes, content.data(), content.size());
  return bytes;
}

Bytes set_of(const std::string& table, const std::string& set) {
  Bytes content = text(NFTA_SET_ELEM_LIST_TABLE, table);
  append(content, text(NFTA_SET_ELEM_LIST_SET, set));
  return content;
}

// One element of a set whose keys are of one byte.
Bytes element(std::uint8_t key) {
  const Bytes value = attribute(NFTA_DATA_VALUE, std::as_bytes(std::span(&key, 1)));
  return nested(NFTA_LIST_ELEM, nested(NFTA_SET_ELEM_KEY, value));
}

// Of acknowledgements: how many there are, and the first error.
struct Answers {
  std::size_t count = 0;
  int code = 0;
};

void take_answers(std::span<const std::byte> bytes, Answers& answers) {
  while (bytes.size() >= NLMSG_HDRLEN) {
    nlmsghdr head{};
    std::memcpy(&head, bytes.data(), sizeof head);
    if (head.nlmsg_len < NLMSG_HDRLEN || head.nlmsg_len > bytes.size()) return;
    nlmsgerr told{};
    if (head.nlmsg_type == NLMSG_ERROR && head.nlmsg_len >= NLMSG_LENGTH(sizeof(told.error))) {
      std::memcpy(&told.error, bytes.data() + NLMSG_HDRLEN, sizeof told.error);
      ++answers.count;
      if (answers.code == 0) answers.code = -told.error;
    }
    bytes = bytes.subspan(std::min<std::size_t>(bytes.size(), NLMSG_ALIGN(head.nlmsg_len)));
  }
}

}  // namespace

void NftTransaction::add(int type, int flags, int family, std::span<const std::byte> content) {
  const Bytes whole =
      message((NFNL_SUBSYS_NFTABLES << 8) | type, flags | NLM_F_ACK, family, 0, content);
  append(messages_, whole.data(), whole.size());
  ++count_;
}

void NftTransaction::fill(const std::string& table, const std::string& set) {
  Bytes elements;
  for (const std::uint8_t family : {NFPROTO_IPV4, NFPROTO_IPV6}) append(elements, element(family));
  Bytes content = set_of(table, set);
  append(content, nested(NFTA_SET_ELEM_LIST_ELEMENTS, elements));
  add(NFT_MSG_NEWSETELEM, NLM_F_CREATE, NFPROTO_INET, content);
  commands_ += fmt::format("add element inet {} {} {{ ipv4, ipv6 }}\n", table, set);
}

void NftTransaction::empty(const std::string& table, const std::string& set) {
  add(NFT_MSG_DELSETELEM, 0, NFPROTO_INET, set_of(table, set));
  commands_ += fmt::format("flush set inet {} {}\n", table, set);
}

void NftTransaction::flush(const std::string& family, const std::string& table) {
  add(NFT_MSG_DELRULE, 0, family == "arp" ? NFPROTO_ARP : NFPROTO_IPV6,
      text(NFTA_RULE_TABLE, table));
  commands_ += fmt::format("flush table {} {}\n", family, table);
}

int NftTransaction::try_send(int socket) const {
  const Bytes begin = message(NFNL_MSG_BATCH_BEGIN, 0, AF_UNSPEC, NFNL_SUBSYS_NFTABLES, {});
  const Bytes end = message(NFNL_MSG_BATCH_END, 0, AF_UNSPEC, NFNL_SUBSYS_NFTABLES, {});
  Bytes all = begin;
  append(all, messages_);
  append(all, end);
  if (::send(socket, all.data(), all.size(), 0) < 0) return errno;
  // The kernel has done it by now, and said so: nothing is waited for.
  Answers answers;
  std::array<std::byte, 8192> buffer;
  while (answers.count < count_) {
    const ssize_t got = ::recv(socket, buffer.data(), buffer.size(), MSG_DONTWAIT);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return answers.code != 0 ? answers.code : errno;
    take_answers(std::span(buffer).first(static_cast<std::size_t>(got)), answers);
  }
  return answers.code;
}

}  // namespace godwit
