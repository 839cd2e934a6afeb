#include "common/model/phase.h"

#include <algorithm>
#include <array>

#include "common/base/clock.h"
#include "common/base/error.h"
#include "common/base/log.h"
#include "common/model/phase_table.h"

namespace godwit {
namespace {

template <typename T>
struct Named {
  T value;
  std::string_view name;
};

constexpr std::array kStates = std::to_array<Named<State>>({
    {State::kConnecting, "Connecting"},
    {State::kPreflight, "Preflight"},
    {State::kBuilding, "Building"},
    {State::kPreCopy, "PreCopy"},
    {State::kFreezing, "Freezing"},
    {State::kSwitching, "Switching"},
    {State::kPrepared, "Prepared"},
    {State::kRecording, "Recording"},
    {State::kCommitted, "Committed"},
    {State::kPostCopy, "PostCopy"},
    {State::kInDoubt, "InDoubt"},
    {State::kRollingBack, "RollingBack"},
    {State::kCompleted, "Completed"},
    {State::kRolledBack, "RolledBack"},
    {State::kRefused, "Refused"},
    {State::kChecked, "Checked"},
});

constexpr std::array kEvents = std::to_array<Named<Event>>({
    {Event::kConnected, "Connected"},
    {Event::kPreflightPassed, "PreflightPassed"},
    {Event::kPreflightRefused, "PreflightRefused"},
    {Event::kCheckPassed, "CheckPassed"},
    {Event::kSkeletonReady, "SkeletonReady"},
    {Event::kRoundPlaced, "RoundPlaced"},
    {Event::kConverged, "Converged"},
    {Event::kTasksFrozen, "TasksFrozen"},
    {Event::kFinalSent, "FinalSent"},
    {Event::kDestinationPrepared, "DestinationPrepared"},
    {Event::kSourceReleased, "SourceReleased"},
    {Event::kCopyComplete, "CopyComplete"},
    {Event::kCommitSent, "CommitSent"},
    {Event::kCommitConfirmed, "CommitConfirmed"},
    {Event::kReleasedEarly, "ReleasedEarly"},
    {Event::kCommitLost, "CommitLost"},
    {Event::kOutcomeCommitted, "OutcomeCommitted"},
    {Event::kOutcomeUnknown, "OutcomeUnknown"},
    {Event::kOutcomeOpen, "OutcomeOpen"},
    {Event::kPagesComplete, "PagesComplete"},
    {Event::kCleanedUp, "CleanedUp"},
    {Event::kFailed, "Failed"},
    {Event::kCancelled, "Cancelled"},
    {Event::kPeerGone, "PeerGone"},
});

constexpr std::array kActions = std::to_array<Named<Action>>({
    {Action::kCompareHosts, "compare the hosts, judge the process"},
    {Action::kReport, "report"},
    {Action::kDescribe, "describe, have the skeleton built"},
    {Action::kStartRounds, "start the rounds"},
    {Action::kNextRound, "describe again, next round"},
    {Action::kFreezeSource, "freeze the source"},
    {Action::kSendFinal, "send the last pages and the final description"},
    {Action::kAwaitPrepared, "wait until the destination is prepared"},
    {Action::kSendCommit, "send Commit"},
    {Action::kCompleteImage, "let the source run, complete the image"},
    {Action::kAwaitConfirmation, "wait for the confirmation"},
    {Action::kAskOutcome, "keep the source frozen, ask for the outcome"},
    {Action::kServePages, "serve the missing pages"},
    {Action::kReconnect, "connect again, go on serving"},
    {Action::kEndSource, "end the source's copy, clean up"},
    {Action::kThawSource, "let the source run, clean up"},
    {Action::kGoOnRollingBack, "go on cleaning up"},
    {Action::kTellTooLate, "say that it is too late to cancel"},
});

template <typename T, std::size_t size>
constexpr auto values_of(const std::array<Named<T>, size>& table) {
  std::array<T, size> values{};
  for (std::size_t i = 0; i < size; ++i) values[i] = table[i].value;
  return values;
}
constexpr auto kStateValues = values_of(kStates);
constexpr auto kEventValues = values_of(kEvents);

template <typename T, std::size_t size>
std::string_view name_in(const std::array<Named<T>, size>& table, T value) {
  for (const auto& row : table) {
    if (row.value == value) return row.name;
  }
  return "?";
}

}  // namespace

std::span<const State> all_states() { return kStateValues; }
std::span<const Event> all_events() { return kEventValues; }

std::string_view name_of(State state) { return name_in(kStates, state); }
std::string_view name_of(Event event) { return name_in(kEvents, event); }
std::string_view name_of(Action action) { return name_in(kActions, action); }

std::optional<State> state_from_name(std::string_view name) {
  for (const auto& row : kStates) {
    if (row.name == name) return row.value;
  }
  return std::nullopt;
}

bool is_terminal(State state) {
  return state == State::kCompleted || state == State::kRolledBack || state == State::kRefused ||
         state == State::kChecked;
}

bool is_past_commit(State state) {
  return state == State::kCommitted || state == State::kPostCopy || state == State::kInDoubt ||
         state == State::kCompleted;
}

int exit_code_of(State state) {
  switch (state) {
    case State::kCompleted:
    case State::kChecked:
      return 0;
    case State::kRolledBack:
      return 1;
    case State::kRefused:
      return 2;
    default:
      return 3;
  }
}

std::optional<Transition> try_next(State state, Event event) {
  for (const Transition& row : phase_table()) {
    if (row.from == state && row.event == event) return row;
  }
  return std::nullopt;
}

Transition next(State state, Event event) {
  const std::optional<Transition> row = try_next(state, event);
  if (!row) fail("the state machine has no way on from {} with {}", name_of(state), name_of(event));
  return *row;
}

PhaseMachine::PhaseMachine(std::string migration_id, State start)
    : migration_id_(std::move(migration_id)), history_{{start, monotonic_ns()}} {}

Action PhaseMachine::apply(Event event) {
  const State before = state();
  const Transition row = next(before, event);
  if (row.next != before) {
    const std::int64_t now = monotonic_ns();
    log_info("migration={} phase={} event={} from={} after_ms={:.3f}", migration_id_,
             name_of(row.next), name_of(event), name_of(before),
             to_ms(now - history_.back().entered_ns));
    history_.push_back({row.next, now});
  } else {
    log_debug("migration={} phase={} event={}", migration_id_, name_of(before), name_of(event));
  }
  return row.action;
}

std::vector<std::pair<State, std::int64_t>> PhaseMachine::durations_ns(std::int64_t now_ns) const {
  std::vector<std::pair<State, std::int64_t>> durations;
  for (std::size_t i = 0; i < history_.size(); ++i) {
    const State state = history_[i].state;
    if (is_terminal(state)) continue;
    const std::int64_t end = i + 1 < history_.size() ? history_[i + 1].entered_ns : now_ns;
    auto at = std::find_if(durations.begin(), durations.end(),
                           [state](const auto& entry) { return entry.first == state; });
    if (at == durations.end()) at = durations.insert(durations.end(), {state, 0});
    at->second += end - history_[i].entered_ns;
  }
  return durations;
}

}  // namespace godwit
