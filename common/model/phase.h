// The state machine of a migration, as the source sees it.
//
// One table (phase_table.cc) of state x event -> next state, action. Status, journal, recovery,
// docs and tests read that table; nothing else knows an order of phases. A pair that is not in the
// table is a defect of the caller and is refused.
//
// The invariant behind it: at every instant at most one copy can run. Up to Prepared the source
// decides alone, so everything that goes wrong rolls back. Committed means that the message Commit
// was sent: from then on only the destination's answer ends it, and a lost answer is InDoubt.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace godwit {

enum class State : std::uint8_t {
  kConnecting,
  kPreflight,
  kBuilding,
  kPreCopy,
  kFreezing,
  kSwitching,
  kPrepared,
  kRecording,
  kCommitted,
  kPostCopy,
  kInDoubt,
  kRollingBack,
  kCompleted,
  kRolledBack,
  kRefused,
  kChecked,
};

enum class Event : std::uint8_t {
  kConnected,
  kPreflightPassed,
  kPreflightRefused,
  kCheckPassed,
  kSkeletonReady,
  kRoundPlaced,
  kConverged,
  kTasksFrozen,
  kFinalSent,
  kDestinationPrepared,
  kSourceReleased,
  kCopyComplete,
  kCommitSent,
  kCommitConfirmed,
  kReleasedEarly,
  kCommitLost,
  kOutcomeCommitted,
  kOutcomeUnknown,
  kOutcomeOpen,
  kPagesComplete,
  kCleanedUp,
  kFailed,
  kCancelled,
  kPeerGone,
};

enum class Action : std::uint8_t {
  kCompareHosts,
  kReport,
  kDescribe,
  kStartRounds,
  kNextRound,
  kFreezeSource,
  kSendFinal,
  kAwaitPrepared,
  kSendCommit,
  kCompleteImage,
  kAwaitConfirmation,
  kAskOutcome,
  kServePages,
  kReconnect,
  kEndSource,
  kThawSource,
  kGoOnRollingBack,
  kTellTooLate,
};

struct Transition {
  State from;
  Event event;
  State next;
  Action action;
};

// Every state and every event, in the order of the enumerations.
std::span<const State> all_states();
std::span<const Event> all_events();

// "PreCopy", "TasksFrozen", "freeze the source": as printed and as written to the journal.
std::string_view name_of(State state);
std::string_view name_of(Event event);
std::string_view name_of(Action action);
std::optional<State> state_from_name(std::string_view name);

// No event leads out of a terminal state.
bool is_terminal(State state);
// Commit has been sent: the source may not decide alone any more.
bool is_past_commit(State state);
// What `migrate` exits with when it ends in this state: 0 moved (or checked), 1 rolled back,
// 2 refused, 3 in doubt. Meant for terminal states and InDoubt; any other says 3: whoever stops
// there has not found out.
int exit_code_of(State state);

// The table's row; nothing when the pair is refused.
std::optional<Transition> try_next(State state, Event event);
// The same; throws Error naming both for a refused pair.
Transition next(State state, Event event);

// A state with when it was entered, CLOCK_MONOTONIC.
struct PhaseEntry {
  State state;
  std::int64_t entered_ns;
};

// Holds the current state of one migration. Not thread-safe: it belongs to the session.
class PhaseMachine {
 public:
  // `migration_id` stands in the log lines.
  explicit PhaseMachine(std::string migration_id, State start = State::kConnecting);

  State state() const { return history_.back().state; }
  // Goes to the next state and says what is to be done there. Throws Error for a pair that the
  // table doesn't have; the state is then what it was.
  Action apply(Event event);
  // True if the table has a row for it.
  bool accepts(Event event) const { return try_next(state(), event).has_value(); }

  // Every state entered, oldest first. A transition that stays in its state adds nothing.
  const std::vector<PhaseEntry>& history() const { return history_; }
  // Time spent in each state so far, in the order of first entry; the current one counts up to
  // `now`.
  std::vector<std::pair<State, std::int64_t>> durations_ns(std::int64_t now_ns) const;

 private:
  std::string migration_id_;
  std::vector<PhaseEntry> history_;
};

}  // namespace godwit
