#include "dest-agent/resumed_pages.h"

#include <utility>
#include <vector>

#include "common/base/clock.h"

namespace godwit {
namespace {

constexpr std::int64_t kAnswerTimeoutNs = 30'000'000'000;

}  // namespace

void ResumedPages::start() {
  pages_.emplace(PageServerProcess::spawn("destination"));
  post_copy_.resume(pages_->link());
  await([](const proto::PageReport& report) { return report.has_still_missing(); });
}

proto::PageReport ResumedPages::receive(std::int64_t deadline_ns) {
  std::vector<UniqueFd> fds;
  proto::PageReport report = pages_->link().receive(deadline_ns, &fds);
  if (report.has_forked_space() && !fds.empty()) {
    post_copy_.hold_child(report.forked_space().parent(), std::move(fds.front()));
  }
  return report;
}

template <typename IsIt>
proto::PageReport ResumedPages::await(IsIt is_it) {
  const std::int64_t deadline_ns = monotonic_ns() + kAnswerTimeoutNs;
  for (;;) {
    proto::PageReport report = receive(deadline_ns);
    if (is_it(report)) return report;
  }
}

std::optional<proto::MissingPages> ResumedPages::take_report() {
  proto::PageReport report = receive(kNoDeadline);
  if (!report.has_missing_pages()) return std::nullopt;
  return std::move(*report.mutable_missing_pages());
}

proto::StillMissing ResumedPages::name_missing() {
  proto::PageOrder order;
  order.mutable_name_missing();
  pages_->link().send(order);
  proto::PageReport report =
      await([](const proto::PageReport& each) { return each.has_still_missing(); });
  return std::move(*report.mutable_still_missing());
}

proto::MissingPoisoned ResumedPages::poison() {
  proto::PageOrder order;
  order.mutable_poison_missing();
  pages_->link().send(order);
  return await([](const proto::PageReport& each) { return each.has_missing_poisoned(); })
      .missing_poisoned();
}

}  // namespace godwit
