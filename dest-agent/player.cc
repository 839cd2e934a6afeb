#include "dest-agent/player.h"

#include <algorithm>

#include "common/base/clock.h"
#include "common/base/error.h"
#include "common/base/printable.h"
#include "common/model/ended_connections.h"
#include "common/model/first_pages.h"
#include "common/model/page_areas.h"
#include "common/model/snapshot.h"
#include "common/model/snapshot_check.h"
#include "common/wire/channel.h"

namespace godwit {
Player::Player(const Image& image, const std::string& migration_id, const Choices& choices)
    : name_(fmt::format("image {}", image.path())),
      state_(image.read_state()),
      lazy_(choices.lazy) {
  in_context([&] { check_snapshot(state_.snapshot(), SnapshotPart::kWhole); }, "{}/{}",
             image.path(), kStateFile);
  if (state_.snapshot().processes_size() != 1) {
    fail("{} has {} processes", name_, state_.snapshot().processes_size());
  }
  proto::Process& process = *state_.mutable_snapshot()->mutable_processes(0);
  in_context([&] { check_threads(process.threads()); }, "{}/{}", image.path(), kStateFile);
  if (choices.tcp == TcpChoice::kClose) end_connections(*process.mutable_fd_table());
  state_.mutable_snapshot()->set_generation(kGeneration);
  hello_.set_version(kProtocolVersion);
  hello_.set_migration_id(migration_id);
  hello_.set_pids(choices.pids);
  hello_.set_ignore_processor(choices.ignore_processor);
  hello_.set_addresses(choices.tcp == TcpChoice::kKeep ? "keep" : "alone");
  *hello_.mutable_source() = image.manifest().host();
  say(hello_);
}

template <typename Body>
void Player::say(Body body) {
  messages_.push_back(Channel::envelope_of(std::move(body)));
}

void Player::send(const proto::Envelope& envelope, std::int64_t) {
  switch (envelope.body_case()) {
    case proto::Envelope::kHelloAnswer:
      return ask_preflight();
    case proto::Envelope::kPreflightAnswer:
      return take_verdict(envelope.preflight_answer());
    case proto::Envelope::kClockProbe:
      return tell_clocks(envelope.clock_probe().number());
    case proto::Envelope::kReconciled:
      reconciled_ = true;
      host_pid_ = envelope.reconciled().host_pid();
      break;
    case proto::Envelope::kRoundPlaced:
      placed_ = true;
      break;
    case proto::Envelope::kBraced:
      return say_final();
    case proto::Envelope::kPrepared:
      return say(proto::Commit{});
    case proto::Envelope::kCommitted:
      committed_ns_ = monotonic_ns();
      host_pid_ = envelope.committed().host_pid();
      hooks_.runs();
      return finish();
    case proto::Envelope::kMissingPages:
      complete_ = envelope.missing_pages().missing_pages() == 0;
      return finish();
    case proto::Envelope::kFinished:
    case proto::Envelope::kAbort:
      over_ = true;
      return;
    default:
      fail("{} has no place in a restore", body_name(envelope));
  }
  if (reconciled_ && placed_) brace();
}

std::optional<proto::Envelope> Player::try_receive(std::int64_t) {
  if (messages_.empty()) return std::nullopt;
  proto::Envelope envelope = std::move(messages_.front());
  messages_.pop_front();
  return envelope;
}

void Player::finish() {
  if (committed_ns_ != 0 && (!lazy_ || complete_)) say(proto::Finish{});
}

namespace {

// Data of libraries, stacks, small heaps: something of each is touched at once, and all of them are
// read in less time than the faults would take.
void add_small_areas(const proto::Mappings& mappings, std::vector<PageRange>& pages) {
  constexpr std::uint64_t kBytesMax = 8 << 20;
  std::vector<PageRange> areas;
  for (const proto::PageArea& area : page_areas(mappings, {})) {
    if (area.kind() == proto::PageArea::ANONYMOUS) areas.push_back({area.start(), area.end()});
  }
  std::ranges::sort(areas, {}, &PageRange::bytes);
  std::uint64_t left = kBytesMax;
  for (const PageRange& area : areas) {
    if (area.bytes() > left) return;
    left -= area.bytes();
    pages.push_back(area);
  }
}

}  // namespace

std::vector<PageRange> Player::eager_pages() const {
  const proto::Process& process = state_.snapshot().processes(0);
  std::vector<PageRange> pages;
  for (const proto::Thread& thread : process.threads()) add_first_pages(thread, pages);
  add_locked_pages(process.mappings(), pages);
  // What userfaultfd can't serve, or what it can't tell enough of (common/model/page_areas.h).
  for (const proto::PageArea& area : page_areas(process.mappings(), {})) {
    if (area.kind() != proto::PageArea::ANONYMOUS) pages.push_back({area.start(), area.end()});
  }
  add_small_areas(process.mappings(), pages);
  return pages;
}

void Player::ask_preflight() {
  proto::PreflightRequest request;
  *request.mutable_snapshot() = state_.snapshot();
  request.set_resident_bytes(state_.resident_bytes());
  say(std::move(request));
}

void Player::take_verdict(const proto::PreflightAnswer& verdict) {
  findings_.assign(verdict.findings().begin(), verdict.findings().end());
  pids_ = verdict.pids();
  if (refuses(findings_)) {
    over_ = true;
    return;
  }
  describe();
}

void Player::describe() {
  proto::Describe message;
  *message.mutable_snapshot() = state_.snapshot();
  say(std::move(message));
}

// Time stood still for the process since it was saved, and goes on now.
void Player::tell_clocks(std::uint32_t number) {
  const std::int64_t now = monotonic_ns();
  if (first_probe_ns_ == 0) first_probe_ns_ = now;
  proto::ClockReading reading;
  reading.set_number(number);
  reading.set_monotonic_ns(state_.monotonic_ns() + now - first_probe_ns_);
  reading.set_boottime_ns(state_.boottime_ns() + now - first_probe_ns_);
  say(std::move(reading));
}

void Player::brace() {
  reconciled_ = false;  // once
  proto::Brace message;
  message.set_lazy(lazy_);
  hooks_.about_to_run();
  *message.mutable_threads() = state_.snapshot().processes(0).threads();
  say(std::move(message));
}

void Player::say_final() {
  proto::Final message;
  message.mutable_snapshot()->Swap(state_.mutable_snapshot());
  message.set_round(kRound);
  message.set_same_areas(true);
  say(std::move(message));
}

}  // namespace godwit
