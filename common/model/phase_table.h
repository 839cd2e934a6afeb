// The table of the state machine as data, and its printed forms.
#pragma once

#include <span>
#include <string>

#include "common/model/phase.h"

namespace godwit {

// In the order of a migration's life.
std::span<const Transition> phase_table();

// One line per row, columns aligned: state, event, next state, action.
std::string print_phase_table();
// The graph for Graphviz (dot(1)).
std::string print_phase_graph();
// docs/states.md, whole: made from the table, never edited.
std::string print_phase_document();

}  // namespace godwit
