#include "dest-agent/options.h"

#include <CLI/CLI.hpp>
#include <ostream>
#include <utility>

#include "common/base/error.h"

namespace godwit {
namespace {

constexpr const char* kFooter =
    "Example:\n"
    "  dest-agent --listen 10.0.0.2:7000 --keys /etc/godwit/beta\n\n"
    "Runs until SIGTERM or SIGINT; migrations that are underway finish. Exit codes: 0 after such "
    "a\n"
    "signal, 2 when it can't start.";

}  // namespace

DestCommandLine parse_dest_command_line(int argc, const char* const* argv, std::ostream& out,
                                        std::ostream& err) {
  DestOptions options;
  bool quiet_given = false;
  int verbose_count = 0;
  CLI::App app("Takes processes in that `migrate` moves here.", "dest-agent");
  app.footer(kFooter);
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
      ->type_name("ADDR:PORT")
      ->required();
  app.add_option("--keys", options.keys, "Key folder of this host, issued with --role destination")
      ->type_name("DIR")
      ->required();
  app.add_option("--state-dir", options.state_dir, "Where the journals of migrations are")
      ->type_name("DIR")
      ->capture_default_str();
  CLI::Option* quiet = app.add_flag("-q,--quiet", quiet_given, "Log errors only");
  app.add_flag("-v,--verbose", verbose_count, "Log every phase; twice: every step")
      ->excludes(quiet);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return {{}, app.exit(error, out, err) == 0 ? 0 : 2};
  }
  if (quiet_given) options.log_level = LogLevel::kError;
  if (verbose_count == 1) options.log_level = LogLevel::kInfo;
  if (verbose_count >= 2) options.log_level = LogLevel::kDebug;
  return {std::move(options), 0};
}

}  // namespace godwit
