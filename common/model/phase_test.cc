#include "common/model/phase.h"

#include <gtest/gtest.h>

#include <set>

#include "common/base/error.h"
#include "common/base/unique_fd.h"
#include "common/model/phase_table.h"

namespace godwit {
namespace {

// The states that can be reached from one by any events, itself included.
std::set<State> reachable_from(State start) {
  std::set<State> found{start};
  bool grew = true;
  while (grew) {
    grew = false;
    for (const Transition& row : phase_table()) {
      if (found.contains(row.from) && found.insert(row.next).second) grew = true;
    }
  }
  return found;
}

bool before_commit(State state) { return !is_terminal(state) && !is_past_commit(state); }

TEST(PhaseTable, EveryPairIsARowOrRefused) {
  std::size_t rows = 0;
  for (const State state : all_states()) {
    for (const Event event : all_events()) {
      const std::optional<Transition> row = try_next(state, event);
      if (row) {
        ++rows;
        EXPECT_EQ(row->from, state);
        EXPECT_EQ(row->event, event);
        EXPECT_EQ(next(state, event).next, row->next);
        continue;
      }
      try {
        next(state, event);
        FAIL() << name_of(state) << " took " << name_of(event);
      } catch (const Error& error) {
        const std::string story = error.what();
        EXPECT_NE(story.find(name_of(state)), std::string::npos);
        EXPECT_NE(story.find(name_of(event)), std::string::npos);
      }
    }
  }
  // As many pairs as rows: none is in the table twice.
  EXPECT_EQ(rows, phase_table().size());
}

TEST(PhaseTable, FailureBeforeTheCommitRollsBackAndNeverAfter) {
  for (const State state : all_states()) {
    for (const Event event : {Event::kFailed, Event::kCancelled, Event::kPeerGone}) {
      const std::optional<Transition> row = try_next(state, event);
      if (is_terminal(state)) {
        EXPECT_FALSE(row) << name_of(state);
      } else if (before_commit(state)) {
        ASSERT_TRUE(row) << name_of(state);
        EXPECT_EQ(row->next, State::kRollingBack) << name_of(state);
      } else {
        ASSERT_TRUE(row) << name_of(state);
        EXPECT_TRUE(is_past_commit(row->next)) << name_of(state) << " " << name_of(event);
      }
    }
  }
}

TEST(PhaseTable, OnlyTheDestinationsAnswerLeadsBackFromTheCommit) {
  for (const Transition& row : phase_table()) {
    if (!is_past_commit(row.from) || is_past_commit(row.next)) continue;
    EXPECT_EQ(row.from, State::kInDoubt);
    EXPECT_EQ(row.event, Event::kOutcomeUnknown);
    EXPECT_EQ(row.next, State::kRollingBack);
  }
}

TEST(PhaseTable, TheSourceEndsOnlyInCompletedAndIsThawedOnlyOnTheWayBack) {
  for (const Transition& row : phase_table()) {
    // The one copy that goes on running beside what was made of it is that of --leave-running.
    const bool ends_here = row.next == State::kCompleted && row.from != State::kRecording;
    EXPECT_EQ(row.action == Action::kEndSource, ends_here);
    if (row.action == Action::kThawSource) {
      EXPECT_EQ(row.next, State::kRollingBack);
    }
  }
}

TEST(PhaseTable, EveryStateIsReachedAndHasAnEnd) {
  const std::set<State> reached = reachable_from(State::kConnecting);
  for (const State state : all_states()) {
    EXPECT_TRUE(reached.contains(state)) << name_of(state);
    bool ends = false;
    for (const State other : reachable_from(state)) ends = ends || is_terminal(other);
    EXPECT_TRUE(ends) << name_of(state);
    bool leads_out = false;
    for (const Event event : all_events()) leads_out = leads_out || try_next(state, event);
    EXPECT_NE(leads_out, is_terminal(state)) << name_of(state);
  }
}

TEST(PhaseTable, EveryEventAndActionIsUsedAndHasAName) {
  std::set<std::string_view> events;
  for (const Transition& row : phase_table()) {
    events.insert(name_of(row.event));
    EXPECT_NE(name_of(row.action), "?");
  }
  EXPECT_EQ(events.size(), all_events().size());
  EXPECT_FALSE(events.contains("?"));
  for (const State state : all_states()) EXPECT_EQ(state_from_name(name_of(state)), state);
  EXPECT_FALSE(state_from_name("Flying"));
}

TEST(PhaseTable, ExitCodesAreThoseOfTheDocument) {
  EXPECT_EQ(exit_code_of(State::kCompleted), 0);
  EXPECT_EQ(exit_code_of(State::kChecked), 0);
  EXPECT_EQ(exit_code_of(State::kRolledBack), 1);
  EXPECT_EQ(exit_code_of(State::kRefused), 2);
  EXPECT_EQ(exit_code_of(State::kInDoubt), 3);
}

TEST(PhaseTable, TheDocumentIsTheTable) {
  const std::string source = __FILE__;
  const std::string root = source.substr(0, source.rfind("common/model/"));
  EXPECT_EQ(read_file(root + "docs/states.md"), print_phase_document())
      << "make it again: migrate states --markdown > docs/states.md";
  EXPECT_NE(print_phase_document().find(print_phase_table()), std::string::npos);
}

TEST(PhaseTable, TheGraphHasEveryEdgeOnce) {
  const std::string graph = print_phase_graph();
  std::set<std::string> edges;
  for (const Transition& row : phase_table()) {
    edges.insert(fmt::format("  {} -> {} [", name_of(row.from), name_of(row.next)));
  }
  std::size_t arrows = 0;
  for (std::size_t at = graph.find("->"); at != std::string::npos; at = graph.find("->", at + 1)) {
    ++arrows;
  }
  EXPECT_EQ(arrows, edges.size());
  for (const std::string& edge : edges) EXPECT_NE(graph.find(edge), std::string::npos) << edge;
}

TEST(PhaseMachine, WalksThroughAMigration) {
  PhaseMachine machine("0123456789abcdef");
  EXPECT_EQ(machine.apply(Event::kConnected), Action::kCompareHosts);
  EXPECT_EQ(machine.apply(Event::kPreflightPassed), Action::kDescribe);
  EXPECT_EQ(machine.apply(Event::kSkeletonReady), Action::kStartRounds);
  EXPECT_EQ(machine.apply(Event::kRoundPlaced), Action::kNextRound);
  EXPECT_EQ(machine.apply(Event::kConverged), Action::kFreezeSource);
  EXPECT_EQ(machine.apply(Event::kTasksFrozen), Action::kSendFinal);
  EXPECT_EQ(machine.apply(Event::kFinalSent), Action::kAwaitPrepared);
  EXPECT_EQ(machine.apply(Event::kDestinationPrepared), Action::kSendCommit);
  EXPECT_EQ(machine.apply(Event::kCommitSent), Action::kAwaitConfirmation);
  EXPECT_EQ(machine.apply(Event::kCommitConfirmed), Action::kEndSource);
  EXPECT_EQ(machine.state(), State::kCompleted);
  EXPECT_EQ(machine.history().size(), 9U);
}

TEST(PhaseMachine, StaysWhereItIsWhenAnEventIsRefused) {
  PhaseMachine machine("0123456789abcdef");
  EXPECT_FALSE(machine.accepts(Event::kCommitSent));
  EXPECT_THROW(machine.apply(Event::kCommitSent), Error);
  EXPECT_EQ(machine.state(), State::kConnecting);
  EXPECT_TRUE(machine.accepts(Event::kConnected));
}

TEST(PhaseMachine, CountsTimeByStateInOrderOfEntry) {
  PhaseMachine machine("0123456789abcdef");
  machine.apply(Event::kConnected);
  machine.apply(Event::kFailed);
  const auto& history = machine.history();
  const std::int64_t now = history.back().entered_ns + 500;
  const auto durations = machine.durations_ns(now);
  ASSERT_EQ(durations.size(), 3U);
  EXPECT_EQ(durations[0].first, State::kConnecting);
  EXPECT_EQ(durations[0].second, history[1].entered_ns - history[0].entered_ns);
  EXPECT_EQ(durations[2].first, State::kRollingBack);
  EXPECT_EQ(durations[2].second, 500);
  machine.apply(Event::kCleanedUp);
  EXPECT_EQ(machine.durations_ns(now + 1000).size(), 3U);  // a terminal state takes no time
}

}  // namespace
}  // namespace godwit
