// The block that an operator watches: some lines made for the width and height that there are.
// Plain ASCII; colours are told apart from the text.
#pragma once

#include <string>
#include <vector>

#include "source-agent/progress_meter.h"

namespace godwit {

enum class TextStyle { kPlain, kStrong, kDone, kFaint, kWarning };

struct StyledText {
  std::string text;
  TextStyle style = TextStyle::kPlain;
};
using StyledLine = std::vector<StyledText>;

// How many columns it takes.
std::size_t width_of(const StyledLine& line);

// At most `rows` lines (at least one) of at most `columns` characters each: what matters least is
// left out first, what is too long is cut.
std::vector<StyledLine> progress_lines(const ProgressFacts& facts, int columns, int rows);

// What is going on in a state, in words: "copying while it runs".
std::string activity_text(const ProgressFacts& facts);

}  // namespace godwit
