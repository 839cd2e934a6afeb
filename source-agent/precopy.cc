// The rounds: pages travel while the task runs, and what is written meanwhile travels again.
#include <unistd.h>

#include "common/base/clock.h"
#include "common/base/log.h"
#include "source-agent/convergence.h"
#include "source-agent/migration.h"
#include "source-agent/remote_copy.h"

namespace godwit {
namespace {

constexpr std::int64_t kRoundTimeoutNs = 3600LL * 1'000'000'000;

// The layout may have changed since the last round: new areas are tracked and described before a
// page of them travels. The destination holds pages of a generation back until it has that layout.
void follow_layout(Migration& migration) {
  if (!migration.memory->same_address_space()) {
    throw Error(fmt::format("pid {} replaced its program (exec) during the migration",
                            migration.options.pid),
                EAGAIN, "begin the migration again");
  }
  // Descriptors wait for the last description before the freeze: what a round costs is dirtied
  // anew.
  if (!migration.memory->update(migration.capture->describe_mappings(*migration.task))) {
    publish_areas(migration);  // what was fresh is fresh no more
    return;
  }
  proto::Process process = migration.capture->describe_running(*migration.task);
  migration.memory->update(migration.capture->mappings().described());
  describe_again(migration, process);
}

void track_what_escaped(Migration& migration) {
  if (migration.scanned.untracked_size() == 0) return;
  std::vector<PageRange> ranges;
  for (const proto::PageSpan& span : migration.scanned.untracked()) {
    if (const auto range = PageRange::make(span.start(), span.end())) ranges.push_back(*range);
  }
  migration.memory->track_again(std::move(ranges));
}

// What is written now will be touched first there: it travels ahead of the switch, while everything
// else stays behind.
void send_working_set(Migration& migration) {
  constexpr std::int64_t kWindowNs = 250'000'000;
  constexpr useconds_t kTurnUs = 20'000;
  if (migration.options.max_rounds == 0) return;
  add_round(migration.report, run_round(migration));  // names all of it
  const std::int64_t end_ns = monotonic_ns() + kWindowNs;
  while (monotonic_ns() < end_ns) {
    throw_if_cancelled();
    ::usleep(kTurnUs);
  }
  follow_layout(migration);
  add_round(migration.report, run_round(migration));
}

// Soft-dirty bits can only be collected and cleared while nothing is written.
void scan_stopped(Migration& migration, std::int64_t deadline_ns) {
  while (migration.scanned.round() < migration.round) take_event(migration, deadline_ns);
  migration.task->resume();
}

}  // namespace

RoundReport run_round(Migration& migration) {
  const std::int64_t began_ns = monotonic_ns();
  const std::int64_t deadline_ns = began_ns + kRoundTimeoutNs;
  migration.progress.begin_round(migration.round + 1);
  const bool stops = migration.memory->kind() == TrackerKind::kSoftDirty;
  if (stops) migration.task->stop();
  order_round(migration);
  if (stops) scan_stopped(migration, deadline_ns);
  while (migration.placed_round < migration.round || migration.sent.round() < migration.round) {
    take_event(migration, deadline_ns);
    throw_if_cancelled();
  }
  migration.memory->mark_scanned();
  track_what_escaped(migration);
  RoundReport round;
  round.round = migration.round;
  round.pages = migration.sent.pages();
  round.zero_pages = migration.sent.zero_pages();
  round.bytes = migration.sent.bytes();
  round.ns = monotonic_ns() - began_ns;
  round.scan_ns = migration.scanned.scan_ns();
  round.began_unix_ns = clock_ns(CLOCK_REALTIME) - round.ns;
  if (round.ns > 0) {
    round.bandwidth_bytes_per_s = static_cast<std::uint64_t>(static_cast<double>(round.bytes) *
                                                             1e9 / static_cast<double>(round.ns));
  }
  return round;
}

namespace {

void require_little(const Prediction& prediction) {
  if (prediction.decision != PrecopyDecision::kSwitchLazily &&
      prediction.decision != PrecopyDecision::kGiveUp) {
    return;
  }
  throw Error("too much for the pause is written all the time: " + prediction.reason, EAGAIN,
              "it is copied on write instead");
}

}  // namespace

void precopy(Migration& migration) {
  if (migration.options.mode == "post") {
    migration.lazy = true;
    log_info("switching with nearly all pages missing: --mode post");
    send_working_set(migration);
    enter_next(migration, Event::kConverged);
    return;
  }
  if (migration.options.max_rounds == 0 && migration.options.mode == "pre") {
    log_info("stopping with all pages to be sent: --max-rounds 0");
    enter_next(migration, Event::kConverged);
    return;
  }
  ConvergenceLimits limits;
  limits.downtime_ns_max = migration.options.max_downtime_ns;
  limits.rounds_max = migration.options.max_rounds;
  limits.may_leave_pages = migration.options.mode == "hybrid" || migration.takes_little;
  Convergence convergence(limits);
  for (;;) {
    throw_if_cancelled();
    if (migration.round > 0) follow_layout(migration);
    RoundReport round = run_round(migration);
    const Prediction prediction = convergence.after_round(round);
    if (!migration.report.rounds.empty() && migration.report.rounds.back().ns > 0) {
      round.dirty_pages_per_s =
          static_cast<std::uint64_t>(static_cast<double>(round.pages + round.zero_pages) * 1e9 /
                                     static_cast<double>(migration.report.rounds.back().ns));
    }
    add_round(migration.report, round);
    migration.progress.end_round(round, prediction);
    log_info("round={} rest_pages={} predicted_ms={:.2f} {}", round.round, prediction.rest_pages,
             to_ms(prediction.downtime_ns), prediction.reason);
    migration.lazy = prediction.decision == PrecopyDecision::kSwitchLazily;
    if (migration.takes_little) require_little(prediction);
    // An image is made in any case: what is left is written while the process stands still.
    const bool gives_up = prediction.decision == PrecopyDecision::kGiveUp;
    const bool switches = migration.lazy || prediction.decision == PrecopyDecision::kSwitch ||
                          (gives_up && migration.image);
    enter_next(migration, switches ? Event::kConverged : Event::kRoundPlaced);
    if (switches) return;
    if (gives_up) {
      throw Error(fmt::format("pre-copy does not converge: {}", prediction.reason))
          .with_hint(makes_copy(migration)
                         ? "raise --max-downtime or --max-bandwidth, or make an image of it and "
                           "restore that there: migrate checkpoint --leave-running"
                         : "let it run before the rest is there (--mode hybrid), raise "
                           "--max-downtime or --max-bandwidth, or migrate when it writes less");
    }
  }
}

}  // namespace godwit
