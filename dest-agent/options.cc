#include "dest-agent/options.h"

#include <CLI/CLI.hpp>
#include <ostream>
#include <utility>

#include "common/base/error.h"
#include "common/base/version.h"

namespace godwit {
namespace {

constexpr const char* kFooter =
    "Example:\n"
    "  dest-agent --listen 10.0.0.2:7000 --keys /etc/godwit/beta\n\n"
    "Runs until SIGTERM or SIGINT; migrations that are underway finish. Exit codes: 0 after such "
    "a\n"
    "signal, 2 when it can't start.";

constexpr const char* kRestoreFooter =
    "Example:\n"
    "  dest-agent restore --from file:/var/lib/images/monday\n\n"
    "`migrate restore` is this, and explains it. Exit codes: 0 it runs, 1 it could not be "
    "restored,\n"
    "2 refused before anything was made.";

void add_state_dir(CLI::App& app, DestOptions& options) {
  app.add_option("--state-dir", options.state_dir, "Where the journals of migrations are")
      ->type_name("DIR")
      ->capture_default_str();
}

void add_verbosity(CLI::App& app, bool& quiet, int& verbose) {
  CLI::Option* option = app.add_flag("-q,--quiet", quiet, "Log errors only");
  app.add_flag("-v,--verbose", verbose, "Log every phase; twice: every step")->excludes(option);
}

void add_restore(CLI::App& app, DestOptions& options) {
  app.footer(kRestoreFooter);
  app.add_option_function<std::string>(
         "--from",
         [&options](const std::string& text) {
           constexpr std::string_view kScheme = "file:";
           if (!text.starts_with(kScheme) || text.size() == kScheme.size()) {
             throw CLI::ValidationError("--from", "'" + text + "' is no image: file:DIR names one");
           }
           options.image = text.substr(kScheme.size());
         },
         "The image")
      ->type_name("file:DIR")
      ->required();
  app.add_option("--pids", options.pids, "Which process ids it gets")
      ->check(CLI::IsMember({"auto", "same", "namespace"}))
      ->type_name("auto|same|namespace")
      ->capture_default_str();
  app.add_option("--tcp", options.tcp, "What becomes of its connections")
      ->check(CLI::IsMember({"keep", "close"}))
      ->type_name("keep|close")
      ->capture_default_str();
  app.add_option("--cpu", options.cpu,
                 "ignore: instruction sets that only the other processor had are told of")
      ->check(CLI::IsMember({"require", "ignore"}))
      ->type_name("require|ignore")
      ->capture_default_str();
  app.add_flag("--lazy", options.lazy, "It runs at once, and its pages follow");
  app.add_option("--max-bandwidth", options.bandwidth_bytes_per_s_max,
                 "With --lazy: how fast what nobody waits for is read")
      ->type_name("BYTES/S");
  app.add_option("--json", options.json_path,
                 "Write the report as JSON to a file, or to standard output with '-'")
      ->type_name("FILE|-");
  add_state_dir(app, options);
}

}  // namespace

DestCommandLine parse_dest_command_line(int argc, const char* const* argv, std::ostream& out,
                                        std::ostream& err) {
  DestOptions options;
  bool quiet_given = false;
  int verbose_count = 0;
  CLI::App app("Takes processes in that `migrate` moves here.", "dest-agent");
  app.footer(kFooter)->require_subcommand(0, 1);
  app.set_version_flag("--version", version_line("dest-agent"), "Say which version this is");
  app.add_option_function<std::string>(
         "--listen",
         [&options](const std::string& text) {
           try {
             options.listen = parse_host_port(text, true);
           } catch (const Error& error) {
             throw CLI::ValidationError("--listen", error.what());
           }
         },
         "Where to listen: ADDR:PORT or [IPV6]:PORT; port 0: any free one")
      ->type_name("ADDR:PORT");
  app.add_option("--keys", options.keys, "Key folder of this host, issued with --role destination")
      ->type_name("DIR");
  add_state_dir(app, options);
  app.add_option("--registry", options.registry,
                 "Where registered workloads are noted that come here")
      ->type_name("DIR")
      ->capture_default_str();
  add_verbosity(app, quiet_given, verbose_count);
  CLI::App* restore = app.add_subcommand("restore", "Bring a process that was saved back to life");
  add_restore(*restore, options);
  add_verbosity(*restore, quiet_given, verbose_count);
  try {
    app.parse(argc, argv);
    // Looked at here, since they mean nothing to the command.
    if (options.image.empty()) {
      if (options.listen.host.empty()) throw CLI::RequiredError("--listen");
      if (options.keys.empty()) throw CLI::RequiredError("--keys");
    }
  } catch (const CLI::ParseError& error) {
    return {{}, app.exit(error, out, err) == 0 ? 0 : 2};
  }
  if (quiet_given) options.log_level = LogLevel::kError;
  if (verbose_count == 1) options.log_level = LogLevel::kInfo;
  if (verbose_count >= 2) options.log_level = LogLevel::kDebug;
  return {std::move(options), 0};
}

}  // namespace godwit
