// page-server: one end of the page stream of one migration; a child of an agent, see
// docs/architecture.md. Not meant to be started by hand.
#include <malloc.h>
#include <time.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <optional>
#include <string>

#include "common/base/log.h"
#include "common/base/version.h"
#include "common/kernel/short_turns.h"
#include "common/tracking/tracker_probe.h"
#include "common/wire/tls_stream.h"
#include "page-server/page_server.h"
#include "page-server/sandbox.h"

namespace {

struct Options {
  std::string role;
  int link_fd = -1;
  bool verbose = false;
};

// Ends the process while the link is still there: threads may be using it.
[[noreturn]] void run(const Options& options) {
  godwit::close_other_fds(options.link_fd);
  godwit::PageServiceLink link{godwit::UniqueFd(options.link_fd)};
  try {
    // What needs files or privileges comes before they are given away.
    const bool source = options.role == "source" || options.role == "recorder";
    if (options.role == "source" || options.role == "destination") godwit::prepare_tls();
    godwit::KernelFacts kernel;
    if (source) kernel = {godwit::probe_absent_is_written(), godwit::probe_zero_frames()};
    std::optional<godwit::WriteRing> ring;
    if (options.role == "recorder") ring.emplace();
    godwit::drop_privileges();
    godwit::filter_system_calls(ring.has_value());
    _exit(source ? godwit::serve_source(link, kernel, ring ? &*ring : nullptr)
                 : godwit::serve_destination(link));
  } catch (const std::exception& error) {
    godwit::die(link, error.what());
  }
}

}  // namespace

int main(int argc, char** argv) try {
  // Each thread's arena would keep memory of its own.
  mallopt(M_ARENA_MAX, 1);
  tzset();
  godwit::take_short_turns();
  Options options;
  CLI::App app{
      "One end of the page stream of one migration. The agents start it; nobody else need.",
      "page-server"};
  app.footer(
      "Example (descriptor 3 is one end of a socket pair, the agent has the other):\n"
      "  page-server --role source --link-fd 3");
  app.add_option("--role", options.role,
                 "Which end of the stream; recorder: a source whose pages go to an image; player:\n"
                 "a destination whose pages come out of one")
      ->type_name("source|recorder|destination|player")
      ->required()
      ->check(CLI::IsMember({"source", "recorder", "destination", "player"}));
  app.add_option("--link-fd", options.link_fd, "The socket to the agent")
      ->type_name("N")
      ->required();
  app.set_version_flag("--version", godwit::version_line("page-server"),
                       "Say which version this is");
  app.add_flag("--verbose", options.verbose, "Log every step");
  CLI11_PARSE(app, argc, argv);
  godwit::set_up_log("page-server",
                     options.verbose ? godwit::LogLevel::kDebug : godwit::LogLevel::kWarning);
  run(options);
} catch (const std::exception& error) {
  std::fprintf(stderr, "page-server: %s\n", error.what());
  return 1;
}
