// Netfilter rules through libnftables, in nft(8)'s own language.
#pragma once

#include <memory>
#include <string>
#include <utility>

#include "common/kernel/nft_transaction.h"

struct nft_ctx;

namespace godwit {

// One connection to nf_tables, in the network namespace of the thread that made it. A table with
// `flags owner` belongs to the object that made it and goes when the object, or the process, goes.
class Nftables {
 public:
  Nftables();  // throws Error

  // Runs commands as one transaction: all of them or none. Throws Error with nft's own words.
  void run(const std::string& commands);
  // False when it could not be done.
  bool try_run(const std::string& commands);
  // The same with what was worked out before. Throws Error.
  void run(const NftTransaction& transaction);

 private:
  struct Deleter {
    void operator()(nft_ctx* context) const;
  };
  explicit Nftables(std::pair<nft_ctx*, int> context);

  std::unique_ptr<nft_ctx, Deleter> context_;
  int socket_ = -1;  // the context's; not known: -1
};

}  // namespace godwit
