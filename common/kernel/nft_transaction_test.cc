#include "common/kernel/nft_transaction.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <cstdio>

#include <cerrno>
#include <functional>
#include <thread>

#include "common/base/error.h"
#include "common/kernel/nftables.h"

namespace godwit {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

constexpr const char* kTables = R"(table inet t {
  flags owner
  set doors {
    type nf_proto
  }
}
table arp t {
  chain input {
    type filter hook input priority 0
    arp daddr ip 192.0.2.1 drop
  }
}
)";

// In a network of its own.
void alone(const std::function<void()>& body) {
  std::thread([&] {
    ASSERT_EQ(unshare(CLONE_NEWNET), 0);
    body();
  }).join();
}

std::string rules() {
  std::string text;
  FILE* pipe = popen("nft list ruleset", "re");
  if (pipe == nullptr) return text;
  char buffer[4096];
  for (std::size_t got; (got = fread(buffer, 1, sizeof buffer, pipe)) > 0;)
    text.append(buffer, got);
  pclose(pipe);
  return text;
}

TEST(NftTransaction, FillsEmptiesAndFlushesWhatItsOwnerMade) {
  NftTransaction open;
  open.fill("t", "doors");
  NftTransaction shut;
  shut.empty("t", "doors");
  shut.flush("arp", "t");
  alone([&] {
    Nftables nftables;
    nftables.run(kTables);
    nftables.run(open);
    EXPECT_THAT(rules(), HasSubstr("elements = { ipv4, ipv6 }"));
    nftables.run("add element inet t doors { ipv4 }\n");  // the other way goes on to work
    nftables.run(shut);
    EXPECT_THAT(rules(), Not(HasSubstr("elements")));
    EXPECT_THAT(rules(), Not(HasSubstr("192.0.2.1")));
    EXPECT_THAT(rules(), HasSubstr("hook input"));
    nftables.run(open);
    EXPECT_THAT(rules(), HasSubstr("elements = { ipv4, ipv6 }"));
  });
}

TEST(NftTransaction, IsDoneWholeOrNotAtAllAndSaysWhy) {
  NftTransaction both;
  both.fill("t", "doors");
  both.fill("t", "windows");
  alone([&] {
    Nftables nftables;
    nftables.run(kTables);
    try {
      nftables.run(both);
      FAIL() << "done";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ENOENT);
      EXPECT_THAT(error.what(), HasSubstr("windows"));
    }
    EXPECT_THAT(rules(), Not(HasSubstr("elements")));
    nftables.run("add element inet t doors { ipv6 }\n");
    EXPECT_THAT(rules(), HasSubstr("elements = { ipv6 }"));
  });
}

// A table with an owner is nobody else's: it is the library's own socket that is used.
TEST(NftTransaction, OfSomebodyElsesTableIsRefused) {
  NftTransaction open;
  open.fill("t", "doors");
  alone([&] {
    Nftables owner;
    owner.run(kTables);
    Nftables other;
    EXPECT_THROW(other.run(open), Error);
    EXPECT_NO_THROW(owner.run(open));
  });
}

}  // namespace
}  // namespace godwit
