#include "source-agent/progress.h"

#include <stdlib.h>
#include <unistd.h>

#include <algorithm>
#include <iostream>

#include "common/base/clock.h"
#include "common/base/log.h"
#include "common/model/report_text.h"

namespace godwit {
namespace {

constexpr std::int64_t kBetweenDrawingsNs = 100'000'000;
constexpr std::int64_t kLastWordsNs = 500'000'000;

ConvergenceLimits limits_of(const MigrateOptions& options) {
  ConvergenceLimits limits;
  limits.downtime_ns_max = options.max_downtime_ns;
  limits.rounds_max = options.max_rounds;
  limits.may_leave_pages = options.mode == "hybrid";
  return limits;
}

}  // namespace

bool can_draw_block(const char* term) {
  return term != nullptr && *term != '\0' && std::string_view(term) != "dumb";
}

bool wants_colours(const char* no_color) { return no_color == nullptr || *no_color == '\0'; }

Progress::Progress(const MigrateOptions& options)
    : meter_(options.pid, options.target(), limits_of(options), monotonic_ns()) {
  terminal_ = Terminal::try_open(STDERR_FILENO);
  if (terminal_) {
    set_log_writer([this](std::string_view line) { say(line); });
    if (!options.quiet && can_draw_block(::getenv("TERM"))) {
      block_.emplace(wants_colours(::getenv("NO_COLOR")));
    }
  }
  says_rounds_ = !options.quiet && !block_;
  if (const auto mark = try_mark_process(::getpid())) mark_ = *mark;
}

Progress::~Progress() {
  loud();
  if (!terminal_) return;
  if (block_) terminal_->put(block_->erase(terminal_->columns()));
  terminal_->drain(monotonic_ns() + kLastWordsNs);
  set_log_writer({});
}

std::vector<StyledLine> Progress::lines() const {
  return progress_lines(meter_.facts(state_, quiet_, monotonic_ns()), terminal_->columns() - 1,
                        terminal_->rows() - 1);
}

void Progress::say(std::string_view lines_above) {
  if (!terminal_) {
    std::cerr << lines_above << std::flush;
  } else if (quiet_) {
    kept_ += lines_above;
  } else if (block_ && block_->shown()) {
    ScreenBlock next = *block_;
    if (terminal_->put(next.draw_below(lines_above, lines(), terminal_->columns()))) *block_ = next;
  } else {
    terminal_->put(lines_above);
  }
}

void Progress::draw(bool now) {
  if (quiet_) return;
  const std::int64_t now_ns = monotonic_ns();
  if (!now && now_ns - drawn_ns_ < kBetweenDrawingsNs) return;
  drawn_ns_ = now_ns;
  tell_status(now_ns);
  draw_now();
}

void Progress::publish(const std::string& path) {
  try {
    status_ = std::make_unique<StatusPage>(path);
    draw(true);
  } catch (const Error& error) {
    log_warning("`migrate status` will not know: {}", error.what());
  }
}

void Progress::tell_status(std::int64_t now_ns) const {
  if (!status_) return;
  const ProgressFacts facts = meter_.facts(state_, quiet_, now_ns);
  MigrationStatus status;
  status.agent = mark_;
  status.pid = facts.pid;
  status.state = state_;
  status.round = facts.round;
  if (facts.round_pages) status.pages_left = static_cast<std::int64_t>(facts.pages_left);
  const auto put = [](std::int64_t& to, const auto& from) {
    if (from) to = static_cast<std::int64_t>(*from);
  };
  put(status.dirty_pages_per_s, facts.dirty_pages_per_s);
  put(status.bandwidth_bytes_per_s, facts.bandwidth_bytes_per_s);
  using Kind = SwitchEstimate::Kind;
  const bool soon = facts.switch_in.kind == Kind::kAbout || facts.switch_in.kind == Kind::kAtLeast;
  if (soon) status.switch_in_ns = facts.switch_in.ns;
  if (facts.post_copy) status.post_copy = *facts.post_copy;
  status_->tell(status);
}

// In the background the terminal is somebody else's.
void Progress::draw_now() {
  if (!block_ || terminal_->in_background()) return;
  ScreenBlock next = *block_;
  if (terminal_->offer(next.draw(lines(), terminal_->columns()))) *block_ = next;
}

void Progress::enter(State state) {
  state_ = state;
  draw(true);
}

void Progress::begin_round(std::uint32_t round) {
  meter_.begin_round(round, monotonic_ns());
  draw(false);
}

void Progress::scanned(std::uint32_t round, std::uint64_t pages) {
  meter_.scanned(round, pages);  // not drawn: the task may stand still for the scan
}

void Progress::sent(std::uint32_t round, std::uint64_t pages, std::uint64_t bytes) {
  meter_.sent(round, pages, bytes, monotonic_ns());
  draw(false);
}

void Progress::end_round(const RoundReport& round, const Prediction& prediction) {
  meter_.end_round(round, prediction);
  if (says_rounds_) say(round_line(round) + "\n");
  draw(false);
}

void Progress::serve(const PostCopyReport& report) {
  meter_.serve(report);
  draw(false);
}

void Progress::tick() { draw(false); }

void Progress::quiet() {
  quiet_ = true;
  draw_now();  // the last picture before the blackout says so
}

void Progress::loud() {
  if (!quiet_) return;
  quiet_ = false;
  if (kept_.empty()) return;
  const std::string kept = std::move(kept_);
  kept_.clear();
  say(kept);
}

}  // namespace godwit
