#include "source-agent/image_options.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <sstream>
#include <vector>

namespace godwit {
namespace {

using Command = MigrateOptions::Command;
using ::testing::HasSubstr;

struct Parsed {
  std::optional<MigrateOptions> options;
  std::string err;
};

Parsed parse(std::vector<const char*> words) {
  words.insert(words.begin(), "migrate");
  std::ostringstream out;
  std::ostringstream err;
  auto line = parse_migrate_command_line(static_cast<int>(words.size()), words.data(), out, err);
  return {std::move(line.options), err.str()};
}

TEST(ImageOptions, OfACheckpoint) {
  const Parsed parsed = parse({"checkpoint", "--pid", "7", "--to", "file:/images/a/", "--base",
                               "/images/b", "--compress", "zstd", "--leave-running"});
  ASSERT_TRUE(parsed.options) << parsed.err;
  EXPECT_EQ(parsed.options->command, Command::kCheckpoint);
  EXPECT_EQ(parsed.options->base, "/images/b");
  EXPECT_EQ(parsed.options->compression, "zstd");
  EXPECT_TRUE(parsed.options->leave_running);
  EXPECT_EQ(parsed.options->mode, "pre");
  EXPECT_THAT(parsed.options->target(), HasSubstr("file:/images/a"));
}

TEST(ImageOptions, OfASeries) {
  const Parsed parsed = parse(
      {"checkpoint", "--pid", "7", "--to", "file:/images/a", "--every", "60s", "--keep", "3"});
  ASSERT_TRUE(parsed.options) << parsed.err;
  EXPECT_EQ(parsed.options->every_ns, 60'000'000'000);
  EXPECT_EQ(parsed.options->keep, 3U);
  EXPECT_TRUE(parsed.options->leave_running);
  EXPECT_FALSE(parse({"checkpoint", "--pid", "7", "--to", "file:/a", "--keep", "3"}).options);
  EXPECT_FALSE(parse({"checkpoint", "--pid", "7", "--to", "file:/a", "--every", "0s"}).options);
}

TEST(ImageOptions, LazyRestoreMayBeSlow) {
  const auto parsed = parse({"restore", "--from", "file:/a", "--lazy", "--max-bandwidth", "16M"});
  ASSERT_TRUE(parsed.options) << parsed.err;
  EXPECT_TRUE(parsed.options->lazy);
  EXPECT_EQ(parsed.options->max_bandwidth_bytes_per_s, 16'000'000U);
  EXPECT_FALSE(parse({"restore", "--from", "file:/a", "--max-bandwidth", "16M"}).options);
}

TEST(ImageOptions, TellWhatIsMissing) {
  EXPECT_THAT(parse({"checkpoint", "--to", "file:/a"}).err, HasSubstr("--pid"));
  EXPECT_THAT(parse({"checkpoint", "--pid", "7"}).err, HasSubstr("--to"));
  EXPECT_THAT(parse({"checkpoint", "--pid", "7", "--to", "/a"}).err, HasSubstr("file:DIR"));
  EXPECT_THAT(parse({"restore"}).err, HasSubstr("--from"));
  EXPECT_THAT(parse({"images", "merge", "/a"}).err, HasSubstr("--out"));
  EXPECT_THAT(parse({"core", "/a"}).err, HasSubstr("--out"));
}

}  // namespace
}  // namespace godwit
