#include "source-agent/option_parts.h"

namespace godwit {

void add_pid(CLI::App& app, MigrateOptions& options, const char* help) {
  add_parsed(app, "--pid", help, "PID",
             [&options](const std::string& text) { options.pid = parse_pid(text); });
}

void add_json(CLI::App& app, MigrateOptions& options) {
  app.add_option("--json", options.json_path,
                 "Write the report as JSON to a file, or to standard output with '-'")
      ->type_name("FILE|-");
}

void add_verbosity(CLI::App& app, Verbosity& verbosity) {
  CLI::Option* quiet =
      app.add_flag("-q,--quiet", verbosity.quiet, "Say nothing but how it ended, and errors");
  app.add_flag("-v,--verbose", verbosity.verbose, "Log every phase; twice: every step")
      ->excludes(quiet);
}

void add_state_dir(CLI::App& app, MigrateOptions& options) {
  app.add_option("--state-dir", options.state_dir, "Where the journals of migrations are")
      ->type_name("DIR")
      ->capture_default_str();
}

void add_max_downtime(CLI::App& app, MigrateOptions& options) {
  add_parsed(app, "--max-downtime", "Freeze when the rest is expected to take less than this",
             "TIME",
             [&options](const std::string& text) {
               options.max_downtime_ns = parse_duration_ns(text);
               if (options.max_downtime_ns == 0)
                 fail("a pause of 0 can't be reached: such as 10ms");
             })
      ->default_str("10ms");
}

void add_tracker(CLI::App& app, MigrateOptions& options) {
  app.add_option("--tracker", options.tracker,
                 "How written pages are found; auto: the better of those that this kernel has")
      ->check(CLI::IsMember({"auto", "write-protect", "soft-dirty"}))
      ->type_name("auto|write-protect|soft-dirty")
      ->capture_default_str();
}

void add_max_rounds(CLI::App& app, MigrateOptions& options, const char* help) {
  add_parsed(app, "--max-rounds", help, "N", [&options](const std::string& text) {
    options.max_rounds = static_cast<int>(parse_count(text, 0, 1'000'000, "--max-rounds"));
  })->default_str("30");
}

}  // namespace godwit
