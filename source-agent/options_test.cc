#include "source-agent/options.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <sstream>
#include <vector>

#include "common/base/error.h"
#include "source-agent/workload_options.h"

namespace godwit {
namespace {

using Command = MigrateOptions::Command;
using ::testing::HasSubstr;

struct Parsed {
  std::optional<MigrateOptions> options;
  int exit_code;
  std::string out;
  std::string err;
};

Parsed parse(std::vector<const char*> words) {
  words.insert(words.begin(), "migrate");
  std::ostringstream out;
  std::ostringstream err;
  auto [options, exit_code] =
      parse_migrate_command_line(static_cast<int>(words.size()), words.data(), out, err);
  return {std::move(options), exit_code, out.str(), err.str()};
}

std::vector<const char*> with_target(std::vector<const char*> words) {
  words.insert(words.end(), {"--pid", "12", "--to", "10.0.0.2:7000", "--keys", "ca/alpha"});
  return words;
}

TEST(MigrateCommandLine, CopiesWithAllPages) {
  const Parsed parsed = parse(with_target({"--leave-running"}));
  ASSERT_TRUE(parsed.options) << parsed.err;
  EXPECT_TRUE(parsed.options->leave_running);
  EXPECT_EQ(parsed.options->mode, "pre");
  EXPECT_TRUE(parse(with_target({"--leave-running", "--mode", "pre"})).options);
  for (const char* mode : {"post", "hybrid"}) {
    const Parsed refused = parse(with_target({"--leave-running", "--mode", mode}));
    EXPECT_EQ(refused.exit_code, 2);
    EXPECT_THAT(refused.err, HasSubstr("a copy runs when all its pages are there"));
  }
  EXPECT_EQ(parse(with_target({"--leave-running", "--addresses", "move"})).exit_code, 2);
}

TEST(MigrateCommandLine, HasDefaults) {
  const Parsed parsed = parse(with_target({}));
  ASSERT_TRUE(parsed.options) << parsed.err;
  const MigrateOptions& options = *parsed.options;
  EXPECT_EQ(options.command, Command::kMigrate);
  EXPECT_EQ(options.pid, 12);
  EXPECT_EQ(options.to, (HostPort{"10.0.0.2", 7000}));
  EXPECT_EQ(options.keys, "ca/alpha");
  EXPECT_EQ(options.addresses, "keep");
  EXPECT_EQ(options.pids, "auto");
  EXPECT_EQ(options.cpu, "require");
  EXPECT_EQ(options.max_downtime_ns, 10'000'000);
  EXPECT_EQ(options.max_bandwidth_bytes_per_s, 0U);
  EXPECT_EQ(options.max_rounds, 30);
  EXPECT_FALSE(options.json_path);
  EXPECT_FALSE(options.verify);
  EXPECT_FALSE(options.quiet);
  EXPECT_EQ(options.log_level, LogLevel::kWarning);
}

TEST(MigrateCommandLine, TakesEveryOption) {
  const Parsed parsed = parse({"--pid",           "7",     "--to",           "[fd00::2]:7000",
                               "--keys",          "k",     "--addresses",    "move",
                               "--pids",          "same",  "--max-downtime", "2.5ms",
                               "--max-bandwidth", "100M",  "--max-rounds",   "5",
                               "--json",          "-",     "--verify",       "-vv",
                               "--state-dir",     "/tmp/s"});
  ASSERT_TRUE(parsed.options) << parsed.err;
  EXPECT_EQ(parsed.options->to.host, "fd00::2");
  EXPECT_EQ(parsed.options->addresses, "move");
  EXPECT_EQ(parsed.options->pids, "same");
  EXPECT_EQ(parsed.options->max_downtime_ns, 2'500'000);
  EXPECT_EQ(parsed.options->max_bandwidth_bytes_per_s, 100'000'000U);
  EXPECT_EQ(parsed.options->max_rounds, 5);
  EXPECT_EQ(parsed.options->json_path, "-");
  EXPECT_TRUE(parsed.options->verify);
  EXPECT_EQ(parsed.options->log_level, LogLevel::kDebug);
  EXPECT_EQ(parsed.options->state_dir, "/tmp/s");
}

TEST(MigrateCommandLine, RegistersAndDrains) {
  const Parsed made = parse({"register", "--pid", "7", "--name", "web", "--mode", "pre", "--verify",
                             "--priority", "-3", "--registry", "/r"});
  ASSERT_TRUE(made.options) << made.err;
  EXPECT_EQ(made.options->command, Command::kRegister);
  EXPECT_EQ(made.options->workload, "web");
  EXPECT_EQ(made.options->priority, -3);
  EXPECT_EQ(made.options->registered_options, (std::vector<std::string>{"--mode=pre", "--verify"}));
  const Parsed drain = parse({"drain", "--to", "b:1", "--keys", "k", "--parallel", "3"});
  ASSERT_TRUE(drain.options) << drain.err;
  EXPECT_EQ(drain.options->parallel, 3);
  EXPECT_FALSE(drain.options->returning);
  EXPECT_TRUE(parse({"drain", "--return", "--keys", "k"}).options->returning);
  EXPECT_TRUE(parse({"--workload", "web", "--return", "--keys", "k"}).options->returning);
  EXPECT_EQ(parse({"check", "--workload", "web", "--to", "b:1", "--keys", "k"}).options->workload,
            "web");
  EXPECT_EQ(parse({"registered", "--json"}).options->as_json, true);
  EXPECT_EQ(parse({"unregister", "--name", "web"}).options->command, Command::kUnregister);
}

TEST(MigrateCommandLine, RefusesWhatARegistrationHasAlready) {
  EXPECT_EQ(parse({"drain", "--keys", "k"}).exit_code, 2);
  EXPECT_EQ(parse({"drain", "--to", "b:1", "--keys", "k", "--parallel", "0"}).exit_code, 2);
  EXPECT_EQ(parse({"drain", "--to", "b:1", "--keys", "k", "--home", "a"}).exit_code, 2);
  EXPECT_EQ(parse({"register", "--pid", "7"}).exit_code, 2);
  EXPECT_EQ(parse({"--workload", "web", "--to", "b:1", "--keys", "k", "--mode", "pre"}).exit_code,
            2);
  EXPECT_EQ(parse(with_target({"--workload", "web"})).exit_code, 2);
  EXPECT_EQ(parse(with_target({"--return"})).exit_code, 2);
}

TEST(RegisteredOptions, AreThoseOfAMoveOnly) {
  MigrateOptions options;
  apply_registered_options({"--addresses=move", "--max-downtime=20ms", "--verify"}, options);
  EXPECT_EQ(options.addresses, "move");
  EXPECT_EQ(options.max_downtime_ns, 20'000'000);
  EXPECT_TRUE(options.verify);
  EXPECT_THROW(apply_registered_options({"--json=/etc/x"}, options), Error);
  EXPECT_THROW(apply_registered_options({"--mode=nonsense"}, options), Error);
  EXPECT_THROW(apply_registered_options({"word"}, options), Error);
}

TEST(MigrateCommandLine, KnowsItsCommands) {
  EXPECT_EQ(parse(with_target({"check"})).options->command, Command::kCheck);
  EXPECT_EQ(parse(with_target({"check", "--json", "f"})).options->json_path, "f");
  EXPECT_EQ(parse({"states"}).options->states_form, MigrateOptions::StatesForm::kText);
  EXPECT_EQ(parse({"states", "--dot"}).options->states_form, MigrateOptions::StatesForm::kGraph);
  EXPECT_EQ(parse({"recover", "--state-dir", "/x", "-v"}).options->state_dir, "/x");
  EXPECT_EQ(parse({"recover"}).options->command, Command::kRecover);
  const Parsed init = parse({"keys", "init", "--dir", "ca"});
  EXPECT_EQ(init.options->command, Command::kKeysInit);
  EXPECT_EQ(init.options->keys_dir, "ca");
  const Parsed issue = parse({"keys", "issue", "--dir", "ca", "--name", "beta", "--role",
                              "destination", "--out", "ca/beta", "--days", "-1"});
  ASSERT_TRUE(issue.options) << issue.err;
  EXPECT_EQ(issue.options->command, Command::kKeysIssue);
  EXPECT_EQ(issue.options->host_name, "beta");
  EXPECT_EQ(issue.options->role, "destination");
  EXPECT_EQ(issue.options->out_dir, "ca/beta");
  EXPECT_EQ(issue.options->days, -1);
}

TEST(MigrateCommandLine, QuietAndVerboseExcludeEachOther) {
  EXPECT_TRUE(parse(with_target({"--quiet"})).options->quiet);
  EXPECT_EQ(parse(with_target({"--quiet"})).options->log_level, LogLevel::kError);
  EXPECT_EQ(parse(with_target({"-v"})).options->log_level, LogLevel::kInfo);
  EXPECT_EQ(parse(with_target({"-v", "--quiet"})).exit_code, 2);
}

TEST(MigrateCommandLine, RefusesWrongValuesNamingThem) {
  const auto refused = [](std::vector<const char*> words, const char* part) {
    const Parsed parsed = parse(with_target(std::move(words)));
    EXPECT_FALSE(parsed.options) << part;
    EXPECT_EQ(parsed.exit_code, 2) << part;
    EXPECT_THAT(parsed.err, HasSubstr(part));
    EXPECT_EQ(parsed.out, "");
  };
  refused({"--addresses", "take"}, "take");
  refused({"--pids", "any"}, "any");
  refused({"--cpu", "any"}, "any");
  refused({"--max-downtime", "10"}, "'10' is not a duration");
  refused({"--max-downtime", "0"}, "0");
  refused({"--max-bandwidth", "fast"}, "'fast' is not a rate");
  refused({"--max-rounds", "-1"}, "'-1' is not a number that --max-rounds takes");
  refused({"--tracker", "guess"}, "--tracker");
  refused({"--max-rounds", "x"}, "--max-rounds");
  refused({"--nonsense"}, "--nonsense");
  refused({"check", "states"}, "states");
}

TEST(MigrateCommandLine, RefusesWrongTargetsNamingThem) {
  const auto refused = [](std::vector<const char*> words, const char* part) {
    const Parsed parsed = parse(std::move(words));
    EXPECT_FALSE(parsed.options) << part;
    EXPECT_EQ(parsed.exit_code, 2) << part;
    EXPECT_THAT(parsed.err, HasSubstr(part));
  };
  refused({}, "--pid");
  refused({"--pid", "1"}, "--to");
  refused({"--pid", "1", "--to", "a:1"}, "--keys");
  refused({"check", "--pid", "1"}, "--to");
  refused({"--pid", "redis"}, "'redis' is not a process id");
  refused({"--pid", "-4"}, "'-4' is not a process id");
  refused({"--to", "10.0.0.2"}, "'10.0.0.2' is not an address with a port");
  refused({"keys"}, "subcommand");
  refused({"keys", "init"}, "--dir");
  refused({"keys", "issue", "--dir", "ca", "--name", "b", "--out", "o"}, "--role");
  refused({"keys", "issue", "--dir", "ca", "--name", "b", "--out", "o", "--role", "king"}, "king");
  refused({"--pid", "5", "check", "--to", "a:1", "--keys", "k"}, "behind the command 'check'");
}

TEST(MigrateCommandLine, EveryCommandHasHelpWithAnExample) {
  const std::vector<std::vector<const char*>> commands{
      {}, {"check"}, {"states"}, {"recover"}, {"keys"}, {"keys", "init"}, {"keys", "issue"}};
  for (std::vector<const char*> words : commands) {
    words.push_back("--help");
    const Parsed parsed = parse(words);
    EXPECT_FALSE(parsed.options);
    EXPECT_EQ(parsed.exit_code, 0);
    EXPECT_THAT(parsed.out, HasSubstr("Example"));
    EXPECT_THAT(parsed.out, HasSubstr("migrate "));
    EXPECT_EQ(parsed.err, "");
  }
}

}  // namespace
}  // namespace godwit
