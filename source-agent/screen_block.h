// A block of lines at the bottom of what a terminal shows, redrawn in place: computes what to write
// for that, and writes nothing itself. Control sequences of ECMA-48 that every terminal but a dumb
// one knows: cursor up, erase in line, erase below, hide and show the cursor.
//
// Each result is meant for one write(2). The cursor is hidden within it only, so that it is there
// whatever happens in between; lines are written over and erased behind, so that nothing flickers.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "source-agent/progress_text.h"

namespace godwit {

class ScreenBlock {
 public:
  explicit ScreenBlock(bool colours) : colours_(colours) {}

  // The block is these lines now, none of them wider than columns - 1.
  std::string draw(const std::vector<StyledLine>& lines, int columns);
  // The same, with `above` (whole lines) put above the block: it stays when the block goes.
  std::string draw_below(std::string_view above, const std::vector<StyledLine>& lines, int columns);
  // The block goes; the cursor stands where it began. Empty when there is none.
  std::string erase(int columns);
  bool shown() const { return !widths_.empty(); }

 private:
  std::string to_top(int columns) const;
  void append(std::string& out, const StyledLine& line) const;

  bool colours_;
  std::vector<std::size_t> widths_;  // of the lines that are on the screen
};

}  // namespace godwit
