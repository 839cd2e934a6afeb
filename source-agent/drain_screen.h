// What a drain shows on standard error while it goes on: lines as things happen, and below them, on
// a terminal, a block that is kept up to date. Never waits for a terminal.
#pragma once

#include <functional>
#include <optional>
#include <string_view>
#include <vector>

#include "source-agent/screen_block.h"
#include "source-agent/terminal.h"

namespace godwit {

class DrainScreen {
 public:
  // `lines`: makes the block for so many columns and rows. Takes the log over where standard error
  // is a terminal. With `quiet` nothing is shown but the log.
  using Lines = std::function<std::vector<StyledLine>(int columns, int rows)>;
  DrainScreen(bool quiet, Lines lines);
  // The block is gone, the log is what it was.
  ~DrainScreen();
  DrainScreen(const DrainScreen&) = delete;
  DrainScreen& operator=(const DrainScreen&) = delete;

  // Whole lines.
  void say(std::string_view text);
  void draw();

 private:
  void put_above(std::string_view text);
  std::vector<StyledLine> block_lines() const;

  bool quiet_;
  Lines lines_;
  std::optional<Terminal> terminal_;
  std::optional<ScreenBlock> block_;
};

}  // namespace godwit
