#include "source-agent/drain_screen.h"

#include <stdlib.h>
#include <unistd.h>

#include <iostream>

#include "common/base/clock.h"
#include "common/base/log.h"
#include "source-agent/progress.h"

namespace godwit {
namespace {

constexpr std::int64_t kLastWordsNs = 500'000'000;

}  // namespace

DrainScreen::DrainScreen(bool quiet, Lines lines) : quiet_(quiet), lines_(std::move(lines)) {
  terminal_ = Terminal::try_open(STDERR_FILENO);
  if (!terminal_) return;
  set_log_writer([this](std::string_view line) { put_above(line); });
  if (!quiet_ && can_draw_block(::getenv("TERM"))) {
    block_.emplace(wants_colours(::getenv("NO_COLOR")));
  }
}

DrainScreen::~DrainScreen() {
  if (!terminal_) return;
  if (block_) terminal_->put(block_->erase(terminal_->columns()));
  terminal_->drain(monotonic_ns() + kLastWordsNs);
  set_log_writer({});
}

std::vector<StyledLine> DrainScreen::block_lines() const {
  return lines_(terminal_->columns() - 1, terminal_->rows() - 1);
}

void DrainScreen::say(std::string_view text) {
  if (!quiet_) put_above(text);
}

void DrainScreen::put_above(std::string_view text) {
  if (!terminal_) {
    std::cerr << text << std::flush;
  } else if (block_ && block_->shown()) {
    ScreenBlock next = *block_;
    if (terminal_->put(next.draw_below(text, block_lines(), terminal_->columns()))) *block_ = next;
  } else {
    terminal_->put(text);
  }
}

void DrainScreen::draw() {
  if (!block_ || terminal_->in_background()) return;
  ScreenBlock next = *block_;
  if (terminal_->offer(next.draw(block_lines(), terminal_->columns()))) *block_ = next;
}

}  // namespace godwit
