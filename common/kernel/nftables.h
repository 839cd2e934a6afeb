// Netfilter rules through libnftables, in nft(8)'s own language.
#pragma once

#include <memory>
#include <string>

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

 private:
  struct Deleter {
    void operator()(nft_ctx* context) const;
  };
  std::unique_ptr<nft_ctx, Deleter> context_;
};

}  // namespace godwit
