#include "source-agent/workload_options.h"

#include <algorithm>

namespace godwit {
namespace {

using Command = MigrateOptions::Command;

constexpr const char* kRegisterFooter =
    "Examples:\n"
    "  migrate register --pid 1234 --name web --addresses move\n"
    "  migrate register --pid 1300 --name batch --priority -5 --mode post\n\n"
    "The options say how it is moved by `migrate drain` and `migrate --workload`, from this host "
    "and\n"
    "from those that it comes to. Exit codes: 0 registered, 2 not (or wrong usage).";
constexpr const char* kUnregisterFooter =
    "Example:\n  migrate unregister --name web\n\n"
    "The process itself is not touched. Exit codes: 0 done, 2 there is none of that name.";
constexpr const char* kRegisteredFooter =
    "Examples:\n  migrate registered\n  migrate registered --json\n\n"
    "Exit codes: 0 told, also that there is none, 2 not found out.";
constexpr const char* kDrainFooter =
    "Examples:\n"
    "  migrate drain --to 10.0.0.2:7000 --keys /etc/godwit/alpha --parallel 2\n"
    "  migrate drain --return --keys /etc/godwit/beta\n\n"
    "The first moves every registered workload away. The second, on the host that they went to,\n"
    "moves those back that came by a drain. All are checked before the first one moves.\n"
    "Exit codes: 0 all moved, 1 some stayed (and run on here), 2 refused before anything was "
    "touched\n"
    "(or wrong usage), 3 at least one is in doubt (see `migrate recover`).";

// In the order of the help.
constexpr const char* kMoveOptions[] = {"--addresses",  "--pids",         "--cpu",
                                        "--mode",       "--max-downtime", "--max-bandwidth",
                                        "--max-rounds", "--tracker",      "--reconnect-timeout",
                                        "--verify"};

void add_registry(CLI::App& app, MigrateOptions& options) {
  app.add_option("--registry", options.registry, "Where registered workloads are noted")
      ->type_name("DIR")
      ->capture_default_str();
}

void add_return_to(CLI::App& app, MigrateOptions& options) {
  add_parsed(app, "--return-to",
             "Where this host's own dest-agent listens, for the way back;\n"
             "without it: this host as the destination sees it, on the port of --to",
             "ADDR:PORT", [&options](const std::string& text) {
               options.home_address = parse_host_port(text).text();
             });
}

void add_name(CLI::App& app, MigrateOptions& options, const std::string& option, const char* help) {
  add_parsed(app, option, help, "NAME", [&options](const std::string& text) {
    if (!is_workload_name(text)) {
      fail("'{}': letters, digits, '.', '_' and '-', at most 64, a letter or digit first", text);
    }
    options.workload = text;
  });
}

void add_priority(CLI::App& app, MigrateOptions& options) {
  add_parsed(app, "--priority", "Higher ones move first; equal ones by name", "N",
             [&options](const std::string& text) {
               options.priority =
                   static_cast<int>(parse_count(text, -1'000'000, 1'000'000, "--priority"));
             })
      ->default_str("0");
}

// As they can be given again, each as one word.
std::vector<std::string> given_move_options(const CLI::App& app) {
  std::vector<std::string> words;
  for (const char* name : kMoveOptions) {
    const CLI::Option* option = app.get_option(name);
    if (option->count() == 0) continue;
    const bool flag = option->get_expected_max() == 0;
    words.push_back(flag ? name : fmt::format("{}={}", name, option->results().back()));
  }
  return words;
}

void add_register(CLI::App& app, MigrateOptions& options) {
  app.footer(kRegisterFooter);
  add_pid(app, options, "The process");
  add_name(app, options, "--name", "What it is called from now on, on this host and on others");
  add_priority(app, options);
  add_move_options(app, options);
  add_registry(app, options);
  app.callback([&options, &app] {
    options.command = Command::kRegister;
    options.registered_options = given_move_options(app);
  });
}

void add_unregister(CLI::App& app, MigrateOptions& options) {
  app.footer(kUnregisterFooter);
  add_name(app, options, "--name", "As it was registered");
  add_registry(app, options);
  app.callback([&options] { options.command = Command::kUnregister; });
}

void add_registered(CLI::App& app, MigrateOptions& options) {
  app.footer(kRegisteredFooter);
  app.add_flag("--json", options.as_json, "As a list in JSON");
  add_registry(app, options);
  app.callback([&options] { options.command = Command::kRegistered; });
}

void add_drain(CLI::App& app, MigrateOptions& options) {
  constexpr int kParallelMax = 32;  // so many migrations a dest-agent takes at the same time
  app.footer(kDrainFooter);
  add_destination(app, options);
  add_parsed(app, "--parallel", "So many move at the same time", "N",
             [&options](const std::string& text) {
               options.parallel =
                   static_cast<int>(parse_count(text, 1, kParallelMax, "--parallel"));
             })
      ->default_str("1");
  app.add_flag("--keep-going", options.keep_going,
               "One that can't be moved, or fails, stays; the others are moved all the same");
  CLI::Option* back = app.add_flag("--return", options.returning,
                                   "Those that came here by a drain go back to where they were");
  add_return_to(app, options);
  app.add_option("--home", options.home, "With --return, only those of this host")
      ->type_name("HOST")
      ->needs(back);
  add_json(app, options);
  add_state_dir(app, options);
  add_registry(app, options);
  app.callback([&options] { options.command = Command::kDrain; });
}

}  // namespace

void add_workload(CLI::App& app, MigrateOptions& options) {
  add_name(app, options, "--workload", "A registered workload, in place of --pid and its options");
  app.add_flag("--return", options.returning, "With --workload: back to where it came from");
  add_return_to(app, options);
  add_registry(app, options);
}

void check_workload(const CLI::App& app) {
  const bool has_workload = app.get_option("--workload")->count() > 0;
  const auto refuse_given = [&app](const char* name, const char* why) {
    const CLI::Option* option = app.get_option_no_throw(name);
    if (option != nullptr && option->count() > 0) throw CLI::ValidationError(name, why);
  };
  if (has_workload) {
    constexpr const char* kWhy = "is in the registration that --workload names";
    refuse_given("--pid", kWhy);
    for (const char* name : kMoveOptions) refuse_given(name, kWhy);
  } else {
    constexpr const char* kWhy = "means something with --workload only";
    for (const char* name : {"--return", "--return-to"}) refuse_given(name, kWhy);
  }
}

void add_workload_commands(CLI::App& app, MigrateOptions& options, Verbosity& verbosity) {
  add_register(*app.add_subcommand("register", "Name a process that `migrate drain` shall move"),
               options);
  add_unregister(*app.add_subcommand("unregister", "Forget a registered workload"), options);
  add_registered(*app.add_subcommand("registered", "Say which workloads are registered"), options);
  CLI::App* drain =
      app.add_subcommand("drain", "Move every registered workload away, or back (--return)");
  add_drain(*drain, options);
  add_verbosity(*drain, verbosity);
}

void check_workload_command(const MigrateOptions& options) {
  switch (options.command) {
    case Command::kRegister:
      if (options.pid == 0) throw CLI::RequiredError("--pid");
      [[fallthrough]];
    case Command::kUnregister:
      if (options.workload.empty()) throw CLI::RequiredError("--name");
      break;
    case Command::kDrain:
      if (options.to.host.empty() && !options.returning) throw CLI::RequiredError("--to");
      if (options.keys.empty()) throw CLI::RequiredError("--keys");
      if (options.returning && !options.home_address.empty()) {
        throw CLI::ValidationError("--return-to", "means nothing on the way back");
      }
      break;
    default:
      break;
  }
}

void apply_registered_options(const std::vector<std::string>& words, MigrateOptions& options) {
  CLI::App app;
  app.set_help_flag();
  add_move_options(app, options);
  try {
    std::vector<std::string> reversed(words.rbegin(), words.rend());
    app.parse(std::move(reversed));
  } catch (const CLI::ParseError& error) {
    throw Error(fmt::format("the options of its registration: {}", error.what()), 0,
                "register it anew");
  }
}

}  // namespace godwit
