// What a running migration tells its operator on standard error: on a terminal one block that is
// kept up to date, elsewhere a line for each round.
//
// Nothing here throws or waits for whoever reads: what can't be told is not told, and the migration
// goes on. Between quiet() and loud() nothing is written at all: that is the blackout. Log lines go
// above the block; those of a quiet time come after it. Belongs to the session's thread.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "common/model/phase.h"
#include "common/model/status_page.h"
#include "source-agent/options.h"
#include "source-agent/progress_meter.h"
#include "source-agent/screen_block.h"
#include "source-agent/terminal.h"

namespace godwit {

class Progress {
 public:
  // Takes the log over where standard error is a terminal. One at a time.
  explicit Progress(const MigrateOptions& options);
  // The block is gone, what was to be told is told, the log is what it was.
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  // From now on `migrate status` is told as well, in a file of this name (status_page.h).
  void publish(const std::string& path);
  void enter(State state);
  void begin_round(std::uint32_t round);
  void scanned(std::uint32_t round, std::uint64_t pages);
  void sent(std::uint32_t round, std::uint64_t pages, std::uint64_t bytes);
  void end_round(const RoundReport& round, const Prediction& prediction);
  // It runs there, and pages follow.
  void serve(const PostCopyReport& report);
  // Time has passed: to be called every kTickNs while wants_ticks().
  void tick();
  bool wants_ticks() const { return block_ && !quiet_; }
  static constexpr std::int64_t kTickNs = 250'000'000;

  // The blackout comes next.
  void quiet();
  void loud();

 private:
  void say(std::string_view lines);
  void draw(bool now);
  void draw_now();
  void tell_status(std::int64_t now_ns) const;
  std::vector<StyledLine> lines() const;

  std::optional<Terminal> terminal_;
  std::optional<ScreenBlock> block_;
  ProgressMeter meter_;
  State state_ = State::kConnecting;
  bool says_rounds_ = false;
  bool quiet_ = false;
  std::string kept_;  // log lines of the quiet time
  std::int64_t drawn_ns_ = 0;
  ProcessMark mark_;  // of this program
  std::unique_ptr<StatusPage> status_;
};

// What the environment says about the terminal: a block can't be drawn on one that is dumb or not
// named (TERM), and colours are not wanted where NO_COLOR has a value.
bool can_draw_block(const char* term);
bool wants_colours(const char* no_color);

}  // namespace godwit
