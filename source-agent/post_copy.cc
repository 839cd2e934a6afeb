// Post-copy: the process runs at the destination, and what it misses is here. Its copy stands still
// until the last page is there.
#include <unistd.h>

#include <algorithm>

#include "common/base/clock.h"
#include "common/base/log.h"
#include "common/model/post_copy_meter.h"
#include "source-agent/migration.h"
#include "source-agent/page_source.h"

namespace godwit {
namespace {

constexpr int kTurnMs = 20;
// Connections that break at once although they can be made: it is not the network then.
constexpr int kFruitlessMax = 20;
constexpr useconds_t kPauseUs = 100'000;

void order_missing_pages(Migration& migration) {
  proto::PageOrder order;
  order.mutable_send_missing()->set_round(++migration.round);
  migration.pages->link().send(order);
}

void take_news(Migration& migration, PostCopyMeter& meter, const proto::MissingPages& news) {
  meter.take(news, monotonic_ns());
  migration.report.post_copy = meter.report();
  migration.progress.serve(meter.report());
}

void serve_until_complete(Migration& migration, PostCopyMeter& meter) {
  const PageService service{migration.control, migration.pages};
  // What came before the commit was confirmed.
  if (const auto early = std::exchange(migration.missing, std::nullopt)) {
    take_news(migration, meter, *early);
    if (early->missing_pages() == 0) return;
  }
  const MissingSink sink = [&](const proto::MissingPages& news) {
    take_news(migration, meter, news);
  };
  while (!take_missing_pages(service, sink)) {
    migration.network->forward_until(*migration.control, migration.pages->link().fd(), kTurnMs);
    if (migration.progress.wants_ticks()) migration.progress.tick();
  }
}

// False: there is nothing left to do.
bool resume(Migration& migration, PostCopyMeter& meter) {
  migration.machine.apply(Event::kPeerGone);
  meter.begin_again();
  migration.report.post_copy = meter.report();
  migration.progress.serve(meter.report());
  const PageSource source{.peer = migration.options.to,
                          .keys = &migration.keys,
                          .migration_id = migration.id,
                          .memory_fd = migration.task->memory_fd(),
                          .pagemap_fd = migration.memory->pagemap_fd(),
                          .bandwidth_bytes_per_s_max = migration.options.max_bandwidth_bytes_per_s};
  const Resumption resumption = resume_service_in_time(source, {migration.control, migration.pages},
                                                       migration.options.reconnect_timeout_ns);
  migration.report.pid_destination = resumption.host_pid;
  if (resumption.complete) migration.report.post_copy.missing_pages = 0;
  return !resumption.complete;
}

}  // namespace

void serve_pages(Migration& migration) {
  const std::int64_t began_ns = monotonic_ns();
  PostCopyReport& report = migration.report.post_copy;
  PostCopyMeter meter(migration.sent.missing_pages());
  report = meter.report();
  log_info("migration={} it runs there as pid {}, {} pages are missing", migration.id,
           migration.report.pid_destination, report.pages);
  bool connected = false;
  int fruitless = 0;
  std::uint64_t missing = report.pages;
  for (;;) {
    try {
      if (!connected && report.reconnects == 0 && migration.control) order_missing_pages(migration);
      connected = true;
      serve_until_complete(migration, meter);
      break;
    } catch (const Error& error) {
      log_warning("migration={} pages of pid {} are missing at {}, connecting again: {}",
                  migration.id, migration.report.pid_destination, migration.options.to.text(),
                  error.what());
      fruitless = report.missing_pages < missing ? 0 : fruitless + 1;
      missing = report.missing_pages;
      if (fruitless > kFruitlessMax) throw;
      if (fruitless > 1) ::usleep(kPauseUs);
      if (!resume(migration, meter)) break;
    }
  }
  report.ns = monotonic_ns() - began_ns;
  migration.report.bytes_sent += report.fault_bytes + report.background_bytes;
  migration.report.pages_sent += report.pages;
  enter_next(migration, Event::kPagesComplete);
}

}  // namespace godwit
