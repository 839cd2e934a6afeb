#include "source-agent/option_parts.h"

namespace godwit {
namespace {

void add_mode(CLI::App& app, MigrateOptions& options) {
  app.add_option("--mode", options.mode,
                 "pre: it runs there when every page is there; post: it runs there at once, and\n"
                 "pages follow as they are touched; hybrid: pre as long as that pays, then post")
      ->check(CLI::IsMember({"pre", "post", "hybrid"}))
      ->type_name("pre|post|hybrid")
      ->capture_default_str();
}

}  // namespace

void add_pid(CLI::App& app, MigrateOptions& options, const char* help) {
  add_parsed(app, "--pid", help, "PID",
             [&options](const std::string& text) { options.pid = parse_pid(text); });
}

void add_destination(CLI::App& app, MigrateOptions& options) {
  add_parsed(app, "--to", "Where dest-agent listens: ADDR:PORT, [IPV6]:PORT or HOST:PORT",
             "ADDR:PORT",
             [&options](const std::string& text) { options.to = parse_host_port(text); });
  app.add_option("--keys", options.keys, "Key folder of this host, issued with --role source")
      ->type_name("DIR");
}

void add_cpu(CLI::App& app, MigrateOptions& options) {
  app.add_option("--cpu", options.cpu,
                 "require: the destination's processor has every instruction set of the source's;\n"
                 "ignore: what it lacks is told only, and is not used by the process")
      ->check(CLI::IsMember({"require", "ignore"}))
      ->type_name("require|ignore")
      ->capture_default_str();
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

void add_addressing(CLI::App& app, MigrateOptions& options) {
  app.add_option("--addresses", options.addresses,
                 "keep: the addresses are on both hosts, or something else routes them;\n"
                 "move: they come along with the process")
      ->check(CLI::IsMember({"move", "keep"}))
      ->type_name("move|keep")
      ->capture_default_str();
  app.add_option(
         "--pids", options.pids,
         "same: the process id is kept in the destination's own space; namespace: in a new\n"
         "pid namespace; auto: same where it is free, else namespace")
      ->check(CLI::IsMember({"auto", "same", "namespace"}))
      ->type_name("auto|same|namespace")
      ->capture_default_str();
  add_cpu(app, options);
}

void add_copy(CLI::App& app, MigrateOptions& options) {
  app.add_flag("--leave-running", options.leave_running,
               "Make a copy there: the process runs on here, and the copy's connections are over");
}

void check_copy(const CLI::App& app, MigrateOptions& options) {
  if (!options.leave_running) return;
  if (app.count("--mode") > 0 && options.mode != "pre") {
    throw CLI::ValidationError("--mode",
                               "a copy runs when all its pages are there: with "
                               "--leave-running it can only be pre");
  }
  if (options.addresses == "move") {
    throw CLI::ValidationError("--addresses",
                               "they stay with the process, which runs on here: "
                               "leave it out, or --leave-running");
  }
  options.mode = "pre";
}

void add_reconnect_timeout(CLI::App& app, MigrateOptions& options) {
  add_parsed(app, "--reconnect-timeout",
             "With pages missing there, try so long to reach the destination again", "TIME",
             [&options](const std::string& text) {
               options.reconnect_timeout_ns = parse_duration_ns(text);
             })
      ->default_str("60s");
}

void add_move_options(CLI::App& app, MigrateOptions& options) {
  add_addressing(app, options);
  add_mode(app, options);
  add_max_downtime(app, options);
  add_parsed(app, "--max-bandwidth",
             "Bytes per second on the page connection: 100M, 1.5G, 64Mi; 0: unlimited", "RATE",
             [&options](const std::string& text) {
               options.max_bandwidth_bytes_per_s = parse_bandwidth_bytes_per_s(text);
             })
      ->default_str("0");
  add_max_rounds(
      app, options,
      "Rounds of pages after which it switches with pages missing,\nor gives up (--mode pre); "
      "0: none, it stands still until all pages are there");
  add_tracker(app, options);
  add_reconnect_timeout(app, options);
  app.add_flag("--verify", options.verify,
               "Compare the restored process with the description before it is released");
}

}  // namespace godwit
