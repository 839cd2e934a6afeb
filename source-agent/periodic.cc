#include "source-agent/periodic.h"

#include <poll.h>

#include <algorithm>

#include "common/base/clock.h"
#include "common/base/log.h"
#include "common/image/series.h"
#include "common/model/journal.h"
#include "source-agent/cancel.h"

namespace godwit {
namespace {

// Until then, or until somebody asks to stop.
void sleep_until(std::int64_t deadline_ns) {
  const sigset_t mask = cancel_wait_mask();
  while (cancel_requested() == 0) {
    const std::int64_t left_ns = deadline_ns - monotonic_ns();
    if (left_ns <= 0) return;
    const timespec timeout{left_ns / 1'000'000'000, left_ns % 1'000'000'000};
    ::ppoll(nullptr, 0, &timeout, &mask);
  }
}

// Disk space is given back when the newer image is there, never before.
void trim(const ImageSeries& series, std::size_t keep) {
  try {
    series.trim(keep);
  } catch (const std::exception& error) {
    log_warning("old images stay for now: {}", error.what());
  }
}

}  // namespace

int run_periodic(const MigrateOptions& options,
                 const std::function<State(const MigrateOptions&)>& save) {
  const auto process = try_mark_process(options.pid);
  const ImageSeries series(options.image);
  State last = State::kCompleted;
  for (bool first = true;; first = false) {
    const std::int64_t began_ns = monotonic_ns();
    MigrateOptions turn = options;
    turn.image = series.next_path();
    turn.base = series.newest().value_or("");
    last = save(turn);
    if (first && last == State::kRefused) break;
    if (last == State::kCompleted) trim(series, options.keep);
    sleep_until(began_ns + options.every_ns);
    if (cancel_requested() != 0 || !process || !is_alive(*process)) return 0;
  }
  return exit_code_of(last);
}

}  // namespace godwit
