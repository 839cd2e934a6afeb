#include "common/model/phase_table.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

namespace godwit {
namespace {

using enum State;
using enum Event;
using enum Action;

constexpr std::array kTable = std::to_array<Transition>({
    // Nothing has been touched.
    {kConnecting, kConnected, kPreflight, kCompareHosts},
    {kConnecting, kPreflightRefused, kRefused, kReport},
    {kConnecting, kFailed, kRollingBack, kThawSource},
    {kConnecting, kCancelled, kRollingBack, kThawSource},
    {kConnecting, kPeerGone, kRollingBack, kThawSource},
    {kPreflight, kPreflightPassed, kBuilding, kDescribe},
    {kPreflight, kCheckPassed, kChecked, kReport},
    {kPreflight, kPreflightRefused, kRefused, kReport},
    {kPreflight, kFailed, kRollingBack, kThawSource},
    {kPreflight, kCancelled, kRollingBack, kThawSource},
    {kPreflight, kPeerGone, kRollingBack, kThawSource},

    // The source runs, the destination builds.
    {kBuilding, kSkeletonReady, kPreCopy, kStartRounds},
    {kBuilding, kFailed, kRollingBack, kThawSource},
    {kBuilding, kCancelled, kRollingBack, kThawSource},
    {kBuilding, kPeerGone, kRollingBack, kThawSource},
    {kPreCopy, kRoundPlaced, kPreCopy, kNextRound},
    {kPreCopy, kConverged, kFreezing, kFreezeSource},
    {kPreCopy, kFailed, kRollingBack, kThawSource},
    {kPreCopy, kCancelled, kRollingBack, kThawSource},
    {kPreCopy, kPeerGone, kRollingBack, kThawSource},

    // The blackout. The source is stopped and still decides alone.
    {kFreezing, kTasksFrozen, kSwitching, kSendFinal},
    {kFreezing, kFailed, kRollingBack, kThawSource},
    {kFreezing, kCancelled, kRollingBack, kThawSource},
    {kFreezing, kPeerGone, kRollingBack, kThawSource},
    {kSwitching, kFinalSent, kSwitching, kAwaitPrepared},
    {kSwitching, kDestinationPrepared, kPrepared, kSendCommit},
    {kSwitching, kFailed, kRollingBack, kThawSource},
    {kSwitching, kCancelled, kRollingBack, kThawSource},
    {kSwitching, kPeerGone, kRollingBack, kThawSource},
    {kPrepared, kCommitSent, kCommitted, kAwaitConfirmation},
    {kPrepared, kSourceReleased, kRecording, kCompleteImage},
    {kPrepared, kFailed, kRollingBack, kThawSource},
    {kPrepared, kCancelled, kRollingBack, kThawSource},
    {kPrepared, kPeerGone, kRollingBack, kThawSource},

    // A copy that leaves the source running: it runs, its image is being written, or the copy
    // elsewhere is released.
    {kRecording, kCopyComplete, kCompleted, kReport},
    {kRecording, kFailed, kRollingBack, kThawSource},
    {kRecording, kCancelled, kRollingBack, kThawSource},
    {kRecording, kPeerGone, kRollingBack, kThawSource},

    // The destination decides; the source stays frozen until it knows.
    {kCommitted, kCommitConfirmed, kCompleted, kEndSource},
    {kCommitted, kReleasedEarly, kPostCopy, kServePages},
    {kCommitted, kCommitLost, kInDoubt, kAskOutcome},
    {kCommitted, kFailed, kInDoubt, kAskOutcome},
    {kCommitted, kCancelled, kCommitted, kTellTooLate},
    {kCommitted, kPeerGone, kInDoubt, kAskOutcome},
    {kInDoubt, kOutcomeCommitted, kCompleted, kEndSource},
    {kInDoubt, kReleasedEarly, kPostCopy, kServePages},
    {kInDoubt, kOutcomeUnknown, kRollingBack, kThawSource},
    {kInDoubt, kOutcomeOpen, kInDoubt, kAskOutcome},
    {kInDoubt, kFailed, kInDoubt, kAskOutcome},
    {kInDoubt, kCancelled, kInDoubt, kTellTooLate},
    {kInDoubt, kPeerGone, kInDoubt, kAskOutcome},

    // The destination runs; the source keeps the pages until the last one is confirmed.
    {kPostCopy, kPagesComplete, kCompleted, kEndSource},
    {kPostCopy, kFailed, kPostCopy, kReconnect},
    {kPostCopy, kCancelled, kPostCopy, kTellTooLate},
    {kPostCopy, kPeerGone, kPostCopy, kReconnect},

    // The source runs on; what stood ready for the move is removed.
    {kRollingBack, kCleanedUp, kRolledBack, kReport},
    {kRollingBack, kFailed, kRollingBack, kGoOnRollingBack},
    {kRollingBack, kCancelled, kRollingBack, kGoOnRollingBack},
    {kRollingBack, kPeerGone, kRollingBack, kGoOnRollingBack},
});

constexpr std::string_view kRow = "{:<13} {:<21} {:<13} {}\n";

// Rows that have both ends in common, as one edge.
std::string edges(std::string_view format) {
  std::string text;
  std::vector<std::pair<State, State>> drawn;
  for (const Transition& row : kTable) {
    const std::pair edge{row.from, row.next};
    if (std::find(drawn.begin(), drawn.end(), edge) != drawn.end()) continue;
    drawn.push_back(edge);
    std::string events;
    for (const Transition& other : kTable) {
      if (other.from != row.from || other.next != row.next) continue;
      events += fmt::format("{}{}", events.empty() ? "" : ", ", name_of(other.event));
    }
    text += fmt::format(fmt::runtime(format), name_of(row.from), name_of(row.next), events);
  }
  return text;
}

}  // namespace

std::span<const Transition> phase_table() { return kTable; }

std::string print_phase_table() {
  std::string text = fmt::format(fmt::runtime(kRow), "state", "event", "next state", "action");
  for (const Transition& row : kTable) {
    text += fmt::format(fmt::runtime(kRow), name_of(row.from), name_of(row.event),
                        name_of(row.next), name_of(row.action));
  }
  return text;
}

std::string print_phase_graph() {
  std::string text = "digraph migration {\n  rankdir=TB;\n  node [shape=box];\n";
  for (const State state : all_states()) {
    if (is_terminal(state)) text += fmt::format("  {} [peripheries=2];\n", name_of(state));
  }
  return text + edges("  {} -> {} [label=\"{}\"];\n") + "}\n";
}

std::string print_phase_document() {
  std::string text =
      "# States of a migration\n\n"
      "Made by `migrate states --markdown` from the table in `common/model/phase_table.cc`, which "
      "is\n"
      "what the program follows; a test compares the two. Change the table, then make this file "
      "again.\n\n"
      "A pair of state and event that is not listed is refused. Up to `Prepared` the source "
      "decides\n"
      "alone, and whatever goes wrong rolls back. `Committed` means that the message Commit was "
      "sent:\n"
      "only the destination's answer ends it, and a lost answer is `InDoubt`: the source stays\n"
      "frozen and asks until it knows. `migrate recover` settles what an agent left behind.\n\n";
  text += "| ends in | exit code | meaning |\n|---|---|---|\n";
  text +=
      fmt::format("| `{}` | {} | moved: the destination's copy runs; or the image is complete |\n",
                  name_of(kCompleted), exit_code_of(kCompleted));
  text += fmt::format("| `{}` | {} | `migrate check` found nothing against it |\n",
                      name_of(kChecked), exit_code_of(kChecked));
  text += fmt::format("| `{}` | {} | rolled back: the source runs on |\n", name_of(kRolledBack),
                      exit_code_of(kRolledBack));
  text += fmt::format("| `{}` | {} | refused before anything was touched |\n", name_of(kRefused),
                      exit_code_of(kRefused));
  text += fmt::format("| `{}` | {} | the answer to Commit was lost: the source is frozen |\n\n",
                      name_of(kInDoubt), exit_code_of(kInDoubt));
  text += "## The table\n\n```\n" + print_phase_table() + "```\n\n## The graph\n\n```mermaid\n";
  text += "stateDiagram-v2\n" + fmt::format("  [*] --> {}\n", name_of(kConnecting));
  text += edges("  {} --> {}: {}\n");
  for (const State state : all_states()) {
    if (is_terminal(state)) text += fmt::format("  {} --> [*]\n", name_of(state));
  }
  return text + "```\n";
}

}  // namespace godwit
