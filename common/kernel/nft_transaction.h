// A transaction of nf_tables that is worked out before it is needed: what is left to do then is one
// system call of some 50 us, where libnftables reads the ruleset and its language first, a
// millisecond of it.
//
// It knows what is wanted at such moments: sets of address families that are filled or emptied, and
// rules that go. Tables need not be there when it is made. nfnetlink's batches:
// linux/netfilter/nfnetlink.h, nf_tables.h.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <vector>

namespace godwit {

class NftTransaction {
 public:
  // IPv4 and IPv6 into a set of nf_proto, of a table of the family `inet`.
  void fill(const std::string& table, const std::string& set);
  // Everything out of it.
  void empty(const std::string& table, const std::string& set);
  // Every rule of a table; its chains stay. `family` is "arp" or "ip6".
  void flush(const std::string& family, const std::string& table);

  // In nft(8)'s language.
  const std::string& commands() const { return commands_; }
  // Sends it to a NETLINK_NETFILTER socket that has nothing else to tell, and waits for what the
  // kernel says. The socket's own tables (`flags owner`) are open to it. Gives errno, 0: done.
  int try_send(int socket) const;

 private:
  void add(int type, int flags, int family, std::span<const std::byte> content);

  std::string commands_;
  std::vector<std::byte> messages_;
  std::size_t count_ = 0;
};

}  // namespace godwit
