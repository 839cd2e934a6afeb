// Post-copy: the process runs at the destination, and what it misses is here. Its copy stands still
// until the last page is there.
#include <poll.h>

#include "common/base/clock.h"
#include "common/base/log.h"
#include "source-agent/migration.h"

namespace godwit {
namespace {

constexpr int kTurnMs = 20;
constexpr std::int64_t kMessageTimeoutNs = 10'000'000'000;

bool is_readable(int fd) {
  pollfd wait{fd, POLLIN, 0};
  return ::poll(&wait, 1, 0) == 1;
}

void order_missing_pages(Migration& migration) {
  proto::PageOrder order;
  order.mutable_send_missing()->set_round(++migration.round);
  migration.pages->link().send(order);
}

void take_news(Migration& migration, const proto::MissingPages& news) {
  PostCopyReport& report = migration.report.post_copy;
  report.missing_pages = news.missing_pages();
  report.faults = news.faults();
  report.zero_faults = news.zero_faults();
  report.fault_bytes = news.fault_bytes();
  report.background_bytes = news.background_bytes();
  report.latency_p50_ns = news.latency_p50_ns();
  report.latency_p99_ns = news.latency_p99_ns();
  report.latency_max_ns = news.latency_max_ns();
  migration.progress.serve(report);
}

// True once every page is there.
bool take_events(Migration& migration) {
  while (migration.control->pending() || is_readable(migration.control->fd()) ||
         is_readable(migration.pages->link().fd())) {
    const auto envelope = take_event(migration, monotonic_ns() + kMessageTimeoutNs);
    if (envelope) migration.control->refuse_unexpected(*envelope, "news of missing pages");
  }
  if (!migration.missing) return false;
  take_news(migration, *migration.missing);
  return migration.missing->missing_pages() == 0;
}

}  // namespace

void serve_pages(Migration& migration) {
  const std::int64_t began_ns = monotonic_ns();
  migration.report.post_copy.pages = migration.sent.missing_pages();
  log_info("migration={} it runs there as pid {}, {} pages are missing", migration.id,
           migration.report.pid_destination, migration.sent.missing_pages());
  order_missing_pages(migration);
  while (!take_events(migration)) {
    migration.network->forward_until(*migration.control, migration.pages->link().fd(), kTurnMs);
    if (migration.progress.wants_ticks()) migration.progress.tick();
  }
  PostCopyReport& report = migration.report.post_copy;
  report.ns = monotonic_ns() - began_ns;
  migration.report.bytes_sent += report.fault_bytes + report.background_bytes;
  migration.report.pages_sent += report.pages;
  enter_next(migration, Event::kPagesComplete);
}

}  // namespace godwit
