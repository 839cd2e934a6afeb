#include "source-agent/options.h"

#include <CLI/CLI.hpp>
#include <ostream>
#include <utility>
#include <vector>

#include "common/base/error.h"
#include "common/base/version.h"
#include "source-agent/image_options.h"
#include "source-agent/option_parts.h"
#include "source-agent/workload_options.h"

namespace godwit {
namespace {

using Command = MigrateOptions::Command;

constexpr const char* kMigrateFooter =
    "Examples:\n"
    "  migrate --pid 1234 --to 10.0.0.2:7000 --keys /etc/godwit/alpha --addresses move\n"
    "  migrate --pid 1234 --to 10.0.0.2:7000 --keys /etc/godwit/alpha --leave-running\n\n"
    "Exit codes: 0 moved, 1 rolled back (the process runs on here), 2 refused before anything was\n"
    "touched (or wrong usage), 3 in doubt (see `migrate recover`).";
constexpr const char* kCheckFooter =
    "Examples:\n"
    "  migrate check --pid 1234 --to 10.0.0.2:7000 --keys /etc/godwit/alpha\n"
    "  migrate check --pid 1234 --to 10.0.0.2:7000 --keys /etc/godwit/alpha --json - -q\n\n"
    "Give it the options that the migration will have. Nothing is touched.\n"
    "Exit codes: 0 nothing stands against it, 2 something does, 1 it was not found out.";
constexpr const char* kStatesFooter =
    "Examples:\n  migrate states\n  migrate states --dot | dot -Tsvg > states.svg";
constexpr const char* kRecoverFooter =
    "Examples:\n"
    "  migrate recover\n"
    "  migrate recover --migration 1f0c2b7a9d3e5f60 --poison\n\n"
    "On a source it settles what was interrupted. On a destination it says which tasks wait for "
    "pages\n"
    "whose source is away, and --wait, --poison or --kill chooses; then nothing else is done.\n"
    "Exit codes: 0 settled, or done as chosen, 2 can't be done (or wrong usage), 3 at least one "
    "migration\n"
    "is still in doubt, or waits for pages.";
constexpr const char* kStatusFooter =
    "Examples:\n  migrate status\n  migrate status --json\n\n"
    "Of this host, in either role. Exit codes: 0 told, also that there is none, 2 not found out.";
constexpr const char* kKeysFooter =
    "Examples:\n"
    "  migrate keys init  --dir ca\n"
    "  migrate keys issue --dir ca --name alpha --role source --out ca/alpha";
constexpr const char* kInitFooter = "Example:\n  migrate keys init --dir ca";
constexpr const char* kIssueFooter =
    "Example:\n"
    "  migrate keys issue --dir ca --name beta --role destination --out ca/beta\n\n"
    "A host that plays both roles gets two key folders.";

void add_target(CLI::App& app, MigrateOptions& options) {
  add_pid(app, options, "The process to move");
  add_destination(app, options);
}

void add_migrate(CLI::App& app, MigrateOptions& options) {
  add_target(app, options);
  add_move_options(app, options);
  add_copy(app, options);
  add_workload(app, options);
  add_json(app, options);
  add_state_dir(app, options);
}

void add_status(CLI::App& status, MigrateOptions& options) {
  status.footer(kStatusFooter);
  status.add_flag("--json", options.as_json, "As a list in JSON");
  add_state_dir(status, options);
  status.callback([&options] { options.command = Command::kStatus; });
}

void add_recover(CLI::App& recover, MigrateOptions& options) {
  using Choice = MigrateOptions::LostPages;
  recover.footer(kRecoverFooter);
  recover.add_option("--migration", options.migration_id, "Only this one, by its id")
      ->type_name("ID");
  const auto add_choice = [&](const char* name, Choice choice, const char* help) {
    return recover.add_flag_callback(
        name, [&options, choice] { options.lost_pages = choice; }, help);
  };
  CLI::Option* wait =
      add_choice("--wait", Choice::kWait, "Destination: go on waiting for pages that are lost");
  CLI::Option* poison = add_choice("--poison", Choice::kPoison,
                                   "Destination: SIGBUS for whoever touches a page that is lost");
  CLI::Option* kill =
      add_choice("--kill", Choice::kKill, "Destination: end the tasks that miss pages");
  wait->excludes(poison)->excludes(kill);
  poison->excludes(kill);
  add_state_dir(recover, options);
  add_reconnect_timeout(recover, options);
  recover.callback([&options] { options.command = Command::kRecover; });
}

void add_keys(CLI::App& keys, MigrateOptions& options) {
  keys.require_subcommand(1)->footer(kKeysFooter);
  CLI::App* init = keys.add_subcommand("init", "Make an authority: ca.crt, ca.key");
  init->footer(kInitFooter);
  init->add_option("--dir", options.keys_dir, "The authority's folder")
      ->type_name("DIR")
      ->required();
  init->callback([&options] { options.command = Command::kKeysInit; });

  CLI::App* issue =
      keys.add_subcommand("issue", "Make a host's key folder: host.crt, host.key, ca.crt");
  issue->footer(kIssueFooter);
  issue->add_option("--dir", options.keys_dir, "The authority's folder")
      ->type_name("DIR")
      ->required();
  issue->add_option("--name", options.host_name, "The host's name")->type_name("HOST")->required();
  issue->add_option("--role", options.role, "What the host may do")
      ->check(CLI::IsMember({"source", "destination"}))
      ->type_name("source|destination")
      ->required();
  issue->add_option("--out", options.out_dir, "The folder to make")->type_name("DIR")->required();
  add_parsed(*issue, "--days", "Days until it expires; negative: it has expired already", "N",
             [&options](const std::string& text) {
               options.days = static_cast<int>(parse_count(text, -3650, 3650, "--days"));
             })
      ->default_str("825");
  issue->callback([&options] { options.command = Command::kKeysIssue; });
}

void add_states(CLI::App& states, MigrateOptions& options) {
  states.footer(kStatesFooter);
  CLI::Option* dot = states.add_flag_callback(
      "--dot", [&options] { options.states_form = MigrateOptions::StatesForm::kGraph; },
      "As a graph for Graphviz");
  states
      .add_flag_callback(
          "--markdown", [&options] { options.states_form = MigrateOptions::StatesForm::kDocument; },
          "As docs/states.md")
      ->excludes(dot);
  states.callback([&options] { options.command = Command::kStates; });
}

// What migrate and check can't do without; looked at here because the top level has commands, to
// which these options mean nothing.
void check_target(const MigrateOptions& options) {
  if (options.pid == 0 && options.workload.empty()) throw CLI::RequiredError("--pid");
  if (options.to.host.empty() && !options.returning) throw CLI::RequiredError("--to");
  if (options.keys.empty()) throw CLI::RequiredError("--keys");
}

// `migrate --pid 7 check` would silently be read as two commands.
void check_order(const CLI::App& app) {
  if (app.get_subcommands().empty()) return;
  for (const CLI::Option* option : app.get_options()) {
    if (option->count() == 0 || option == app.get_help_ptr()) continue;
    throw CLI::ValidationError(
        option->get_name(),
        "options go behind the command '" + app.get_subcommands().front()->get_name() + "'");
  }
}

}  // namespace

MigrateCommandLine parse_migrate_command_line(int argc, const char* const* argv, std::ostream& out,
                                              std::ostream& err) {
  MigrateOptions options;
  Verbosity verbosity;
  CLI::App app("Moves a running process to another host without stopping it.", "migrate");
  app.require_subcommand(0, 1)->footer(kMigrateFooter);
  app.set_version_flag("--version", version_line("migrate"), "Say which version this is");
  add_migrate(app, options);
  add_verbosity(app, verbosity);

  CLI::App* check = app.add_subcommand("check", "Say everything that would stop a migration");
  check->footer(kCheckFooter);
  add_target(*check, options);
  add_addressing(*check, options);
  add_copy(*check, options);
  add_workload(*check, options);
  add_json(*check, options);
  add_state_dir(*check, options);
  add_verbosity(*check, verbosity);
  check->callback([&options] { options.command = Command::kCheck; });
  add_states(*app.add_subcommand("states", "Print the state machine of a migration"), options);
  add_status(*app.add_subcommand("status", "Say how the migrations of this host go on"), options);
  CLI::App* recover = app.add_subcommand("recover", "Settle what an agent that died left behind");
  add_recover(*recover, options);
  add_verbosity(*recover, verbosity);
  add_keys(*app.add_subcommand("keys", "Make the certificates of a cluster"), options);
  add_image_commands(app, options, verbosity);
  add_workload_commands(app, options, verbosity);

  try {
    app.parse(argc, argv);
    check_order(app);
    if (options.command == Command::kMigrate || options.command == Command::kCheck) {
      check_target(options);
      if (options.command == Command::kMigrate) check_copy(app, options);
      check_workload(options.command == Command::kCheck ? *check : app);
    }
    check_image_command(options);
    check_workload_command(options);
  } catch (const CLI::ParseError& error) {
    return {{}, app.exit(error, out, err) == 0 ? 0 : 2};
  }
  options.log_level = verbosity.level();
  options.quiet = verbosity.quiet;
  return {std::move(options), 0};
}

}  // namespace godwit
