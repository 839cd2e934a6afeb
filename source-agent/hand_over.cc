// The blackout: from the first thread stopped here to the last one released there.
//
// What stands between the two readings of `began_ns` and `ended_ns` is on every client's clock.
// Everything that can be done before (watches, rules, duplicates, flags) is in get_ready(),
// everything that can be done after is in complete().
#include <unistd.h>

#include <algorithm>

#include "common/base/clock.h"
#include "common/base/log.h"
#include "common/base/steady_heap.h"
#include "common/kernel/precedence.h"
#include "common/model/first_pages.h"
#include "common/model/report_text.h"
#include "common/model/snapshot.h"
#include "common/network/socket_address.h"
#include "source-agent/checkpoint.h"
#include "source-agent/migration.h"
#include "source-agent/remote_copy.h"

namespace godwit {
namespace {

constexpr std::int64_t kBraceTimeoutNs = 60'000'000'000;
constexpr std::int64_t kPreparedTimeoutNs = 30'000'000'000;
constexpr std::int64_t kAllPagesTimeoutNs = 3600LL * 1'000'000'000;  // in one round, as any other
constexpr std::int64_t kConfirmTimeoutNs = 10'000'000'000;
// For a moment in which everything can be moved. New connections are held back meanwhile.
constexpr std::int64_t kPatienceNs = 800'000'000;
// Of queues in connections: longer than a scheduler or a network hiccups.
constexpr std::int64_t kNoProgressNs = 500'000'000;
constexpr std::int64_t kMomentNs = 100'000'000;
constexpr useconds_t kCalmTurnUs = 5000;

class PhaseClock {
 public:
  explicit PhaseClock(MigrationReport& report) : report_(report) { restart(); }
  void restart() {
    report_.blackout_phases_ns.clear();
    report_.blackout_phases_ns.reserve(32);
    last_ns_ = monotonic_ns();
  }
  void mark(const char* name) {
    const std::int64_t now = monotonic_ns();
    report_.blackout_phases_ns.emplace_back(name, now - last_ns_);
    last_ns_ = now;
  }
  std::int64_t last_ns() const { return last_ns_; }

 private:
  MigrationReport& report_;
  std::int64_t last_ns_ = 0;
};

// For whoever settles it when this agent is killed: the addresses go, or are announced again.
void note_addresses(Migration& migration, const proto::Brace& brace) {
  migration.record.addresses.clear();
  for (const proto::MovedAddress& moved : brace.addresses()) {
    const auto address = IpAddress::from_bytes(moved.address());
    if (address) migration.record.addresses.push_back(address->text());
  }
  // Whoever finds the journal must not end the copy here before all pages are there.
  migration.record.misses_pages = migration.lazy;
  if (migration.lazy || !migration.record.addresses.empty()) migration.write_journal();
}

// Queues empty as fast as the program and its peers read; as long as they do, they are waited for.
// The time is spent on rounds, so that memory stays close to what was sent.
void calm_streams(Migration& migration, const proto::FdTable& fd_table) {
  migration.calm.emplace(migration.options.pid, fd_table);
  std::uint64_t least = UINT64_MAX;
  std::int64_t end_ns = 0;
  for (;;) {
    const std::uint64_t queued = migration.calm->keep_calm();
    if (queued < least - least / 16) {
      least = queued;
      end_ns = monotonic_ns() + kNoProgressNs;
    }
    if (queued == 0 || monotonic_ns() > end_ns) return;
    if (migration.lazy) {
      ::usleep(kCalmTurnUs);
      continue;
    }
    add_round(migration.report, run_round(migration));
    publish_areas(migration);
  }
}

// Where pages stay here anyway, the round sends what will be touched first, as far as that takes no
// time, and only names the rest: the destination drops what it has of it before the blackout.
void send_what_was_written(Migration& migration) {
  if (migration.options.max_rounds == 0) return;
  add_round(migration.report, run_round(migration));
  publish_areas(migration);
}

// What is compared in the end has to be whole: then all descriptors are described once more.
void expect_stop(Migration& migration) {
  if (!describes_whole(migration)) migration.capture->fd_table().expect_stop();
}

// They are kept for the way back, too. A copy gets none.
void send_streams(Migration& migration, proto::Streams& streams) {
  proto::Envelope& message = migration.stream_messages.emplace_back();
  message.mutable_streams()->Swap(&streams);
  if (!makes_copy(migration)) migration.control->send(message);
}

// The destination makes connections that stand still before the blackout.
void send_streams_ahead(Migration& migration) {
  proto::Streams streams = migration.capture->look_at_streams(*migration.task);
  if (streams.files_size() == 0) return;
  send_streams(migration, streams);
}

// New connections are held back and those underway are let through to the program, so that none is
// lost: a half-open one or one that waits in a backlog cannot be moved.
void get_ready(Migration& migration) {
  migration.capture->refresh();
  proto::Process process = migration.capture->describe_running(*migration.task);
  const bool areas_changed = migration.memory->update(migration.capture->mappings().described());
  if (areas_changed || process.fd_table().SerializeAsString() != migration.described_fd_table) {
    describe_again(migration, process);
  } else {
    publish_areas(migration);  // nothing is fresh any more
  }
  send_streams_ahead(migration);
  migration.capture->look_at_threads(*migration.task);
  {
    proto::Brace brace = migration.network->prepare(process.fd_table());
    brace.set_lazy(migration.lazy);
    note_addresses(migration, brace);
    for (const auto& [tid, known] : migration.capture->known_threads()) {
      *brace.add_threads() = known.thread;
    }
    migration.control->send_body(std::move(brace));
  }
  await_envelope(migration, proto::Envelope::kBraced, monotonic_ns() + kBraceTimeoutNs);
  calm_streams(migration, process.fd_table());
  proto::Process().Swap(&process);  // what is laid out for the stop takes its memory
  expect_stop(migration);
  keep_heap_steady();
  // What was written while all this was made ready need not travel in the blackout.
  send_what_was_written(migration);
  migration.capture->observe_calls();
  migration.network->drain_listeners();
  migration.calm->keep_calm();
}

// And what was written meanwhile: a few pages, with almost nothing between it and the stop. Many
// threads take longer to follow than the round, and write pages meanwhile: they come first, and
// those that the round woke up once more.
void run_last_round(Migration& migration) {
  migration.capture->follow_threads(*migration.task, 0);
  send_what_was_written(migration);
  migration.capture->follow_threads(*migration.task, 0);
}

// Pages that were written last and fit into the wanted downtime beside the rest of it, as fast as
// the link was: each of them would be a fault, one after another.
std::uint64_t eager_pages_max(const Migration& migration) {
  constexpr std::int64_t kFixedCostNs = 6'000'000;
  constexpr double kPageNs = 10'000;
  constexpr double kPagesMax = 2048;
  const auto& rounds = migration.report.rounds;
  const auto largest = std::max_element(
      rounds.begin(), rounds.end(),
      [](const RoundReport& one, const RoundReport& other) { return one.bytes < other.bytes; });
  const std::uint64_t bandwidth =
      largest == rounds.end() ? 1 : std::max<std::uint64_t>(largest->bandwidth_bytes_per_s, 1);
  const double page_ns =
      std::max(kPageNs, static_cast<double>(kPageSize) * 1e9 / static_cast<double>(bandwidth));
  const auto time_ns = static_cast<double>(migration.options.max_downtime_ns - kFixedCostNs);
  return static_cast<std::uint64_t>(std::clamp(time_ns / page_ns, 0.0, kPagesMax));
}

void order_last_pages(Migration& migration) {
  proto::PageOrder order = next_round(migration);
  proto::SendRound& round = *order.mutable_send_round();
  round.set_final(true);
  round.set_copy_on_write(migration.copy_on_write);
  if (migration.lazy) {
    round.set_lazy(true);
    // Without a round before nothing is known of writes.
    if (migration.round > 1) round.set_eager_written_pages(eager_pages_max(migration));
    for (const PageRange& range : migration.eager) {
      proto::PageSpan& span = *round.add_eager();
      span.set_start(range.start);
      span.set_end(range.end);
    }
  }
  migration.pages->link().send(order);
}

// What the destination has is what was described last, unless the process got something since:
// then its pages are looked for as well.
proto::Mappings describe_layout(Migration& migration) {
  const bool same = migration.capture->mappings().is_as_described() && !describes_whole(migration);
  migration.final_message.mutable_final()->set_same_areas(same);
  if (same) return migration.capture->mappings().describe_marks();
  std::shared_ptr<const proto::Mappings> mappings =
      migration.capture->describe_mappings(*migration.task);
  if (migration.memory->update(mappings, true)) {
    ++migration.generation;
    publish_areas(migration);
    order_last_pages(migration);
  }
  return *mappings;
}

// The destination makes them while the rest is described.
void send_streams(Migration& migration) {
  migration.capture->fd_table().describe_streams(
      [&](proto::Streams& streams) { send_streams(migration, streams); });
}

// Between two tries: what was written since the last round need not travel in the blackout either,
// and then the process is stopped as soon as it looks good.
void wait_for_a_moment(Migration& migration) {
  send_what_was_written(migration);
  expect_stop(migration);
  migration.capture->follow_threads(*migration.task, 1);
  const std::int64_t end_ns = monotonic_ns() + kMomentNs;
  while (!migration.capture->fd_table().find_passing_running().empty()) {
    if (monotonic_ns() > end_ns) return;
    throw_if_cancelled();
    ::usleep(50);
  }
}

// The blackout begins, with the duplicates of all descriptors taken. A process that is just holding
// a lock or reading a file of /proc goes on for a moment: that costs it the time of a stop.
// Returns when it was stopped. Throws Refused when it never comes to an end with it.
std::int64_t stop_for_good(Migration& migration, PhaseClock& clock) {
  FdTableCapture& fd_table = migration.capture->fd_table();
  const std::int64_t deadline_ns = monotonic_ns() + kPatienceNs;
  for (;;) {
    clock.restart();
    const std::int64_t began_ns = clock.last_ns();
    migration.task->stop();
    clock.mark("stop");
    fd_table.take_copies(&*migration.task);
    const Findings passing = fd_table.find_passing();
    if (passing.empty()) return began_ns;
    fd_table.give_back();
    migration.task->resume();
    const proto::Finding& first = passing.front();
    if (monotonic_ns() > deadline_ns) {
      throw Refused(first.id(), first.object() + ": " + first.problem(), first.way_out());
    }
    log_info("not now: {}", finding_line(first));
    wait_for_a_moment(migration);
  }
}

void describe_final(Migration& migration, PhaseClock& clock) {
  FdTableCapture& fd_table = migration.capture->fd_table();
  migration.capture->ask(*migration.task);
  // The last pages are looked for and sent while everything else is described. The destination must
  // not place them while it changes its areas, so they are of the generation that follows.
  begin_generation(migration);
  order_last_pages(migration);
  const std::vector<SocketCopy> sockets = fd_table.sockets();
  migration.network->activate(sockets);
  migration.calm->put_back(sockets);
  // From here on the process is asked nothing, for which it would need the processor.
  migration.capture->begin_to_confirm();
  clock.mark("hold");
  send_streams(migration);
  clock.mark("streams");
  proto::Mappings mappings = describe_layout(migration);
  clock.mark("layout");
  proto::Final& final = *migration.final_message.mutable_final();
  proto::Snapshot& snapshot = *final.mutable_snapshot();
  snapshot.set_version(kSnapshotVersion);
  snapshot.set_generation(migration.generation);
  proto::Process& process = *snapshot.add_processes();
  process = migration.capture->describe_final(*migration.task, std::move(mappings));
  migration.network->recheck(fd_table.sockets(), *process.mutable_fd_table());
  final.set_round(migration.round);
  clock.mark("describe");
}

// What the destination measured goes in between, as parts of a wait.
template <typename Phases>
void mark_wait(Migration& migration, PhaseClock& clock, const Phases& phases, const char* name) {
  std::int64_t there_ns = 0;
  for (const proto::Phase& phase : phases) {
    migration.report.blackout_phases_ns.emplace_back(phase.name(), phase.ns());
    there_ns += phase.ns();
  }
  clock.mark(name);
  migration.report.blackout_phases_ns.back().second -= there_ns;
}

void await_prepared(Migration& migration, PhaseClock& clock) {
  const bool all_pages = migration.report.rounds.empty();
  const proto::Envelope answer =
      await_envelope(migration, proto::Envelope::kPrepared,
                     monotonic_ns() + (all_pages ? kAllPagesTimeoutNs : kPreparedTimeoutNs));
  mark_wait(migration, clock, answer.prepared().phases(), "wire");
}

// From here on the source can't run until the destination has answered.
void commit(Migration& migration, PhaseClock& clock) {
  migration.group->freeze();
  // Every thread is in a ptrace stop, which counts: this reads one file.
  if (!migration.group->wait_frozen(std::chrono::seconds(1))) {
    throw Error(fmt::format("{} does not freeze", migration.group->path()));
  }
  migration.network->freeze(migration.capture->fd_table().sockets());
  clock.mark("freeze");
  proto::HeldPackets held = migration.network->take();
  if (held.packets_size() > 0) migration.control->send_body(held);
  migration.group->keep();  // from now on only an answer thaws it
  migration.machine.apply(Event::kCommitSent);
  migration.control->send_body(proto::Commit{});
}

void await_committed(Migration& migration, PhaseClock& clock) {
  const proto::Envelope answer =
      await_envelope(migration, proto::Envelope::kCommitted, monotonic_ns() + kConfirmTimeoutNs);
  migration.report.pid_destination = answer.committed().host_pid();
  mark_wait(migration, clock, answer.committed().phases(), "commit");
}

std::vector<PageRange> find_eager_pages(const Migration& migration) {
  std::vector<PageRange> pages;
  for (const auto& [tid, known] : migration.capture->known_threads()) {
    add_first_pages(known.thread, pages);
  }
  add_locked_pages(migration.memory->layout(), pages);
  return pages;
}

// --leave-running: its last pages have been read, or are being read now.
void let_go_again(Migration& migration, PhaseClock& clock) {
  await_last_pages(migration);
  clock.mark("last_pages");
  let_source_run(migration);
  clock.mark("release");
}

}  // namespace

void hand_over(Migration& migration) {
  get_ready(migration);
  throw_if_cancelled();
  migration.progress.quiet();
  const Precedence for_pages(migration.pages->pid());
  run_last_round(migration);
  if (migration.lazy) migration.eager = find_eager_pages(migration);
  const Precedence precedence;
  migration.task->seize();
  PhaseClock clock(migration.report);
  const std::int64_t began_ns = stop_for_good(migration, clock);
  describe_final(migration, clock);
  migration.machine.apply(Event::kTasksFrozen);
  migration.control->send(makes_copy(migration) ? final_of_copy(migration)
                                                : migration.final_message);
  migration.machine.apply(Event::kFinalSent);
  clock.mark("send");
  // The destination is at work now: the time to look again at what was taken for unchanged.
  migration.capture->confirm(*migration.task);
  proto::Corrections corrections = migration.capture->fd_table().confirm_streams();
  if (makes_copy(migration)) corrections = corrections_of_copy(migration, corrections);
  if (corrections.sockets_size() > 0) migration.control->send_body(corrections);
  await_prepared(migration, clock);
  migration.machine.apply(Event::kDestinationPrepared);
  if (migration.options.leave_running) {
    let_go_again(migration, clock);
  } else {
    if (migration.image) finish_image_pages(migration);
    commit(migration, clock);
    await_committed(migration, clock);
  }
  migration.report.blackout_ns = clock.last_ns() - began_ns;
  migration.report.frozen_unix_ns = clock_ns(CLOCK_REALTIME) - (monotonic_ns() - began_ns);
  if (makes_copy(migration)) return finish_copy(migration);
  if (migration.options.leave_running) return finish_image_while_running(migration);
  migration.machine.apply(migration.lazy ? Event::kReleasedEarly : Event::kCommitConfirmed);
  migration.progress.loud();
  migration.progress.enter(migration.machine.state());
}

}  // namespace godwit
