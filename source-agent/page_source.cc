#include "source-agent/page_source.h"

#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <vector>

#include "common/base/clock.h"
#include "common/base/log.h"
#include "common/model/snapshot.h"
#include "source-agent/destination.h"
#include "source-agent/migration.h"

namespace godwit {
namespace {

constexpr std::int64_t kAnswerTimeoutNs = 30'000'000'000;
constexpr std::int64_t kMessageTimeoutNs = 10'000'000'000;
constexpr std::int64_t kFirstPauseNs = 50'000'000;
constexpr std::int64_t kLongestPauseNs = 2'000'000'000;

bool is_readable(int fd) {
  pollfd wait{fd, POLLIN, 0};
  return ::poll(&wait, 1, 0) == 1;
}

void connect_pages_again(const PageSource& source, const proto::Resumed& resumed,
                         PageServerProcess& pages) {
  const UniqueFd connection = connect_pages(source.peer, source.migration_id);
  proto::PageOrder start;
  *start.mutable_start_source()->mutable_tls() = to_tls_material(*source.keys);
  start.mutable_start_source()->set_page_token(resumed.page_token());
  start.mutable_start_source()->set_bandwidth_bytes_per_s_max(source.bandwidth_bytes_per_s_max);
  start.mutable_start_source()->set_tracker("write-protect");
  pages.link().send(start, std::vector<int>{connection.get()});

  proto::PageOrder space;
  space.mutable_add_space()->set_space(0);
  pages.link().send(space, std::vector<int>{source.memory_fd, source.pagemap_fd});
  proto::PageOrder missing;
  missing.mutable_leave_missing()->set_space(0);
  *missing.mutable_leave_missing()->mutable_spans() = resumed.missing();
  pages.link().send(missing);

  const UniqueFd faults = connect_pages(source.peer, source.migration_id, ConnectionKind::kFaults);
  proto::PageOrder answer;
  *answer.mutable_start_faults()->mutable_tls() = to_tls_material(*source.keys);
  answer.mutable_start_faults()->set_page_token(resumed.page_token());
  pages.link().send(answer, std::vector<int>{faults.get()});
  proto::PageOrder send;
  send.mutable_send_missing()->set_round(1);
  pages.link().send(send);
}

// The last page came, and only the news of it was lost. Throws Error when the destination can't be
// asked, or says that nothing of it runs there.
std::optional<Resumption> find_complete(const PageSource& source) {
  const proto::Outcome outcome = ask_outcome(source.peer, *source.keys, source.migration_id);
  if (outcome.kind() != proto::Outcome::COMMITTED) {
    throw Error(
        fmt::format("{} does not know of migration {}: its process has ended there, or the "
                    "host was started anew",
                    source.peer.text(), source.migration_id));
  }
  if (outcome.misses_pages()) return std::nullopt;
  return Resumption{outcome.host_pid(), true};
}

}  // namespace

Resumption resume_service(const PageSource& source, const PageService& service) {
  service.pages.reset();
  service.control.reset();
  service.control.emplace(
      connect_control(source.peer, *source.keys, source.migration_id, ConnectionKind::kResume));
  proto::Resume resume;
  resume.set_version(kProtocolVersion);
  resume.set_migration_id(source.migration_id);
  service.control->send_body(std::move(resume), monotonic_ns() + kAnswerTimeoutNs);
  const auto resumed =
      service.control->receive_body<proto::Resumed>(monotonic_ns() + kAnswerTimeoutNs);
  const bool complete = resumed.missing_size() == 0;
  if (!complete) {
    service.pages.emplace(PageServerProcess::spawn("source"));
    connect_pages_again(source, resumed, *service.pages);
  }
  return {resumed.host_pid(), complete};
}

Resumption resume_service_in_time(const PageSource& source, const PageService& service,
                                  std::int64_t timeout_ns) {
  const std::int64_t deadline_ns = monotonic_ns() + timeout_ns;
  std::int64_t pause_ns = kFirstPauseNs;
  for (;;) {
    try {
      if (const auto complete = find_complete(source)) return *complete;
      return resume_service(source, service);
    } catch (const Error& error) {
      if (monotonic_ns() + pause_ns > deadline_ns) throw;
      log_info("migration={} not reached again yet: {}", source.migration_id, error.what());
    }
    ::usleep(static_cast<useconds_t>(pause_ns / 1000));
    pause_ns = std::min(2 * pause_ns, kLongestPauseNs);
  }
}

bool take_missing_pages(const PageService& service, const MissingSink& sink) {
  Channel& control = *service.control;
  while (is_readable(service.pages->link().fd())) {
    in_context([&] { service.pages->link().receive(monotonic_ns() + kMessageTimeoutNs); },
               "page server of the source");
  }
  while (control.pending() || is_readable(control.fd())) {
    const proto::Envelope message = control.receive(monotonic_ns() + kMessageTimeoutNs);
    control.check_not_aborted(message);
    if (message.has_round_placed()) continue;  // all were sent; what was asked for may still come
    if (!message.has_missing_pages()) {
      control.refuse_unexpected(message, "news of missing pages");
    }
    sink(message.missing_pages());
    if (message.missing_pages().missing_pages() == 0) return true;
  }
  return false;
}

void wait_for_news(const PageService& service, int timeout_ms) {
  if (service.control->pending()) return;
  pollfd waits[2] = {{service.control->fd(), POLLIN, 0}, {service.pages->link().fd(), POLLIN, 0}};
  ::poll(waits, 2, timeout_ms);
}

}  // namespace godwit
