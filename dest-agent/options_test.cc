#include "dest-agent/options.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <sstream>
#include <vector>

namespace godwit {
namespace {

using ::testing::HasSubstr;

struct Parsed {
  std::optional<DestOptions> options;
  int exit_code;
  std::string out;
  std::string err;
};

Parsed parse(std::vector<const char*> words) {
  words.insert(words.begin(), "dest-agent");
  std::ostringstream out;
  std::ostringstream err;
  auto [options, exit_code] =
      parse_dest_command_line(static_cast<int>(words.size()), words.data(), out, err);
  return {std::move(options), exit_code, out.str(), err.str()};
}

TEST(DestCommandLine, TakesItsOptions) {
  const Parsed parsed = parse({"--listen", "[::]:0", "--keys", "k", "--state-dir", "/tmp/s", "-v"});
  ASSERT_TRUE(parsed.options) << parsed.err;
  EXPECT_EQ(parsed.options->listen, (HostPort{"::", 0}));
  EXPECT_EQ(parsed.options->keys, "k");
  EXPECT_EQ(parsed.options->state_dir, "/tmp/s");
  EXPECT_EQ(parsed.options->log_level, LogLevel::kInfo);
}

TEST(DestCommandLine, HasDefaults) {
  const Parsed parsed = parse({"--listen", "10.0.0.2:7000", "--keys", "k"});
  ASSERT_TRUE(parsed.options) << parsed.err;
  EXPECT_EQ(parsed.options->state_dir, "/run/godwit");
  EXPECT_EQ(parsed.options->log_level, LogLevel::kWarning);
}

TEST(DestCommandLine, TakesOptionsOfARestore) {
  const Parsed plain = parse({"restore", "--from", "file:/a"});
  ASSERT_TRUE(plain.options) << plain.err;
  EXPECT_EQ(plain.options->image, "/a");
  EXPECT_EQ(plain.options->cpu, "require");
  const Parsed ignoring = parse({"restore", "--from", "file:/a", "--cpu", "ignore"});
  ASSERT_TRUE(ignoring.options) << ignoring.err;
  EXPECT_EQ(ignoring.options->cpu, "ignore");
}

TEST(DestCommandLine, RefusesWrongUsageNamingIt) {
  const auto refused = [](std::vector<const char*> words, const char* part) {
    const Parsed parsed = parse(std::move(words));
    EXPECT_FALSE(parsed.options) << part;
    EXPECT_EQ(parsed.exit_code, 2) << part;
    EXPECT_THAT(parsed.err, HasSubstr(part));
  };
  refused({}, "--listen");
  refused({"--listen", "10.0.0.2:7000"}, "--keys");
  refused({"--listen", "7000", "--keys", "k"}, "'7000' is not an address with a port");
  refused({"--listen", "a:1", "--keys", "k", "-v", "-q"}, "--quiet");
  refused({"--listen", "a:1", "--keys", "k", "extra"}, "extra");
  refused({"restore", "--from", "file:/a", "--cpu", "any"}, "any");
}

TEST(DestCommandLine, HasHelpWithAnExample) {
  const Parsed parsed = parse({"--help"});
  EXPECT_FALSE(parsed.options);
  EXPECT_EQ(parsed.exit_code, 0);
  EXPECT_THAT(parsed.out, HasSubstr("dest-agent --listen"));
}

}  // namespace
}  // namespace godwit
