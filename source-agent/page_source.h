// What the source keeps for a process that runs at the destination with pages missing: its frozen
// copy here, served until the destination has every page.
//
// A connection that was lost, and page servers and agents that died, are got over: the destination
// knows what is missing, so nothing is sent twice without need.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>

#include "common/model/command_line_values.h"
#include "common/wire/channel.h"
#include "common/wire/key_folder.h"
#include "common/wire/page_server_process.h"

namespace godwit {

struct PageSource {
  HostPort peer;
  const KeyFolder* keys = nullptr;
  std::string migration_id;
  int memory_fd = -1;  // of the frozen process; borrowed, as the next
  int pagemap_fd = -1;
  std::uint64_t bandwidth_bytes_per_s_max = 0;
};

// The connection to the destination, and the page server that has the others. Borrowed.
struct PageService {
  std::optional<Channel>& control;
  std::optional<PageServerProcess>& pages;
};

struct Resumption {
  pid_t host_pid = 0;     // as the destination's host sees it
  bool complete = false;  // nothing is missing there any more
};

// Hears of what is missing, at least ten times a second while something is.
using MissingSink = std::function<void(const proto::MissingPages&)>;

// Connects anew. Throws Error.
Resumption resume_service(const PageSource& source, const PageService& service);
// Tries that until it works, with growing pauses; throws the last Error after `timeout_ns`.
Resumption resume_service_in_time(const PageSource& source, const PageService& service,
                                  std::int64_t timeout_ns);

// What the destination says of missing pages; true: all of them are there. `service` has no other
// messages to bring. Throws Error when a connection or a page server is lost.
bool take_missing_pages(const PageService& service, const MissingSink& sink);
// Waits for such news.
void wait_for_news(const PageService& service, int timeout_ms);

}  // namespace godwit
