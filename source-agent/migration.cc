#include "source-agent/migration.h"
#include "source-agent/remote_copy.h"

#include <poll.h>
#include <unistd.h>

#include <algorithm>

#include "common/base/clock.h"
#include "common/base/error.h"
#include "common/kernel/time_namespace.h"
#include "common/model/ended_connections.h"
#include "common/model/snapshot.h"
#include "common/wire/preface.h"

namespace godwit {

Migration::Migration(const MigrateOptions& all, Progress& shown)
    : options(all),
      progress(shown),
      id(make_migration_id()),
      machine(id),
      journal(all.state_dir),
      wait_mask(cancel_wait_mask()) {
  began_ns = monotonic_ns();
  report.migration_id = id;
  report.destination = options.target();
  report.pid_source = options.pid;
  report.addresses = options.addresses;
  report.mode = options.mode;
  record.migration_id = id;
  record.role = "source";
  record.peer = options.target();
  record.keys_dir = options.keys;
  if (options.registered && !options.leave_running) {
    record.workload = workload_json(*options.registered);
    record.registry = options.registry;
  }
}

void Migration::write_journal() {
  record.state = machine.state();
  journal.write(record);
}

bool describes_whole(const Migration& migration) {
  return migration.options.verify || migration.options.leave_running || migration.image;
}

void enter_next(Migration& migration, Event event) {
  migration.machine.apply(event);
  migration.progress.enter(migration.machine.state());
}

namespace {

void take_page_report(Migration& migration, proto::PageReport report) {
  if (report.has_round_progress()) {
    const proto::RoundProgress& news = report.round_progress();
    migration.progress.sent(news.round(), news.pages(), news.bytes());
  }
  if (report.has_ready()) ++migration.page_connections_ready;
  if (report.has_scanned()) {
    migration.progress.scanned(report.scanned().round(), report.scanned().pages());
    migration.scanned.Swap(report.mutable_scanned());
  }
  if (report.has_round_sent()) migration.sent.Swap(report.mutable_round_sent());
  // What is written to an image is where it belongs.
  if (migration.image) migration.placed_round = migration.sent.round();
  if (report.has_image_written()) migration.image_written = report.image_written();
}

// Nothing when the message was one of the running reports.
std::optional<proto::Envelope> take_envelope(Migration& migration, proto::Envelope envelope) {
  migration.control->check_not_aborted(envelope);
  if (envelope.has_round_placed()) {
    migration.placed_round = envelope.round_placed().round();
    return std::nullopt;
  }
  if (envelope.has_missing_pages()) {
    migration.missing = std::move(*envelope.mutable_missing_pages());
    return std::nullopt;
  }
  if (envelope.has_clock_probe()) {
    answer_clock_probe(migration, envelope.clock_probe());
    return std::nullopt;
  }
  return envelope;
}

void add_spans(const std::vector<PageRange>& ranges,
               google::protobuf::RepeatedPtrField<proto::PageSpan>& spans) {
  for (const PageRange& range : ranges) {
    proto::PageSpan& span = *spans.Add();
    span.set_start(range.start);
    span.set_end(range.end);
  }
}

// What travels ahead of a switch with pages missing, since it will be touched first: as much as the
// link takes in a moment, or, as long as nobody knows it, what is little for most links.
std::uint64_t working_set_pages_max(const std::vector<RoundReport>& rounds) {
  constexpr std::uint64_t kPagesMax = 8192;
  constexpr std::uint64_t kUnknownPages = 4096;
  constexpr std::uint64_t kTellingBytes = 1 << 20;
  constexpr std::uint64_t kMomentsPerSecond = 10;
  std::uint64_t bytes_per_s = 0;
  for (const RoundReport& round : rounds) {
    if (round.bytes < kTellingBytes) continue;
    bytes_per_s = std::max(bytes_per_s, round.bandwidth_bytes_per_s);
  }
  if (bytes_per_s == 0) return kUnknownPages;
  return std::min(kPagesMax, bytes_per_s / kMomentsPerSecond / kPageSize);
}

// Locked memory must never be missing, so it travels as long as there is time.
void leave_pages(proto::SendRound& round, const proto::Mappings& layout) {
  round.set_lazy(true);
  for (const proto::Mapping& area : layout.areas()) {
    if ((area.flags() & proto::AREA_LOCKED) == 0) continue;
    proto::PageSpan& span = *round.add_eager();
    span.set_start(area.start());
    span.set_end(area.end());
  }
}

}  // namespace

void answer_clock_probe(Migration& migration, const proto::ClockProbe& probe) {
  const TimeOffsets own = read_time_offsets(::getpid());
  const TimeOffsets task = read_time_offsets(migration.options.pid);
  proto::ClockReading reading;
  reading.set_number(probe.number());
  reading.set_monotonic_ns(clock_ns(CLOCK_MONOTONIC) - own.monotonic_ns + task.monotonic_ns);
  reading.set_boottime_ns(clock_ns(CLOCK_BOOTTIME) - own.boottime_ns + task.boottime_ns);
  migration.control->send_body(reading);
}

std::optional<proto::Envelope> take_event(Migration& migration, std::int64_t deadline_ns) {
  const bool awaits_pages = migration.pages && !migration.pages_complete;
  const int page_link = awaits_pages ? migration.pages->link().fd() : -1;
  const bool may_cancel = !is_past_commit(migration.machine.state());
  for (;;) {
    if (migration.control->pending()) {
      return take_envelope(migration, migration.control->receive(deadline_ns));
    }
    pollfd waits[2] = {{migration.control->fd(), POLLIN, 0}, {page_link, POLLIN, 0}};
    const std::int64_t left_ns = deadline_ns - monotonic_ns();
    if (left_ns <= 0) throw Error("the destination did not answer in time", ETIMEDOUT);
    const bool ticks = migration.progress.wants_ticks();
    const std::int64_t wait_ns = ticks ? std::min(left_ns, Progress::kTickNs) : left_ns;
    const timespec timeout{wait_ns / 1'000'000'000, wait_ns % 1'000'000'000};
    const int ready = ::ppoll(waits, 2, &timeout, may_cancel ? &migration.wait_mask : nullptr);
    if (ready < 0 && errno == EINTR) {
      if (may_cancel) throw_if_cancelled();
      continue;
    }
    if (ready < 0) throw_system("poll");
    if (ready == 0 && ticks) migration.progress.tick();
    if (waits[1].revents != 0) {
      take_page_report(migration,
                       in_context([&] { return migration.pages->link().receive(deadline_ns); },
                                  "page server of the source"));
      return std::nullopt;
    }
    if (waits[0].revents != 0) {
      return take_envelope(migration, migration.control->receive(deadline_ns));
    }
  }
}

proto::Envelope await_envelope(Migration& migration, proto::Envelope::BodyCase kind,
                               std::int64_t deadline_ns) {
  for (;;) {
    std::optional<proto::Envelope> envelope = take_event(migration, deadline_ns);
    if (!envelope) continue;
    if (envelope->body_case() == kind) return std::move(*envelope);
    migration.control->refuse_unexpected(*envelope, "the answer to the last step");
  }
}

void describe_again(Migration& migration, proto::Process& process) {
  constexpr std::int64_t kReconcileTimeoutNs = 60'000'000'000;
  migration.described_fd_table = process.fd_table().SerializeAsString();
  ++migration.generation;
  publish_areas(migration);
  *process.mutable_mappings() = *migration.capture->mappings().described();
  migration.memory->mark_described();
  send_description(migration, process);
  process.clear_mappings();
  await_envelope(migration, proto::Envelope::kReconciled, monotonic_ns() + kReconcileTimeoutNs);
}

void send_description(Migration& migration, proto::Process& process) {
  proto::Envelope message;
  proto::Snapshot& snapshot = *message.mutable_describe()->mutable_snapshot();
  snapshot.set_version(kSnapshotVersion);
  snapshot.set_generation(migration.generation);
  proto::Process& sent = *snapshot.add_processes();
  sent.Swap(&process);  // no second one of what can be large
  proto::FdTable as_it_is;
  if (makes_copy(migration)) {
    as_it_is = sent.fd_table();
    end_connections(*sent.mutable_fd_table());
  }
  migration.control->send(message);
  process.Swap(&sent);
  if (makes_copy(migration)) process.mutable_fd_table()->Swap(&as_it_is);
}

void publish_areas(Migration& migration) {
  proto::PageOrder order;
  proto::SetAreas& areas = *order.mutable_set_areas();
  areas.set_space(0);
  areas.set_generation(migration.generation);
  for (const proto::PageArea& area : migration.memory->areas()) *areas.add_areas() = area;
  migration.pages->link().send(order);
}

void begin_generation(Migration& migration) {
  proto::PageOrder order;
  proto::SetAreas& areas = *order.mutable_set_areas();
  areas.set_space(0);
  areas.set_generation(++migration.generation);
  areas.set_same(true);
  migration.pages->link().send(order);
}

proto::PageOrder next_round(Migration& migration) {
  proto::PageOrder order;
  proto::SendRound& round = *order.mutable_send_round();
  round.set_round(++migration.round);
  round.set_space(0);
  round.set_generation(migration.generation);
  const SharedPages shared = migration.shared_objects->look(migration.memory->layout());
  add_spans(shared.existing, *round.mutable_existing());
  add_spans(shared.looked_at, *round.mutable_looked_at());
  add_spans(shared.distrusted, *round.mutable_distrusted());
  return order;
}

void order_round(Migration& migration) {
  proto::PageOrder order = next_round(migration);
  if (migration.lazy) {
    leave_pages(*order.mutable_send_round(), migration.memory->layout());
    proto::SendRound& round = *order.mutable_send_round();
    if (migration.round > 1) {
      round.set_eager_written_pages(working_set_pages_max(migration.report.rounds));
      // More of these: what they lead to is several times as much.
      if (migration.round == 2) round.set_eager_index_pages(4 * round.eager_written_pages());
    } else {
      round.set_eager_area_pages(working_set_pages_max({}));
    }
  }
  migration.pages->link().send(order);
}

}  // namespace godwit
