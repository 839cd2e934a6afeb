#include "source-agent/drain.h"

#include <poll.h>
#include <signal.h>

#include <algorithm>
#include <deque>
#include <iostream>
#include <list>

#include "common/base/clock.h"
#include "common/base/log.h"
#include "common/base/printable.h"
#include "common/model/report.h"
#include "common/model/status_text.h"
#include "source-agent/cancel.h"
#include "source-agent/drain_item.h"
#include "source-agent/drain_job.h"
#include "source-agent/drain_screen.h"
#include "source-agent/drain_text.h"

namespace godwit {
namespace {

using Stage = DrainItem::Stage;

constexpr std::int64_t kTurnNs = 250'000'000;

// Those that are to move, in their order.
std::vector<DrainItem> select_items(const MigrateOptions& options,
                                    const WorkloadFolder::Contents& contents) {
  std::vector<DrainItem> items;
  for (const Workload& workload : contents.workloads) {
    if (workload.away) continue;
    if (options.returning && workload.home.empty()) continue;
    if (!options.home.empty() && workload.home != options.home) continue;
    DrainItem& item = items.emplace_back();
    item.workload = workload;
    item.to = options.to.host.empty() ? workload.home_address : options.to.text();
  }
  return items;
}

std::vector<std::string> words_for(const MigrateOptions& options, const DrainItem& item) {
  std::vector<std::string> words;
  if (item.stage == Stage::kChecking) words.emplace_back("check");
  words.insert(words.end(),
               {"--workload", item.workload.name, "--to", item.to, "--keys", options.keys,
                "--registry", options.registry, "--state-dir", options.state_dir, "--json", "-"});
  if (options.returning) words.emplace_back("--return");
  if (!options.home_address.empty()) {
    words.insert(words.end(), {"--return-to", options.home_address});
  }
  if (options.log_level == LogLevel::kInfo) words.emplace_back("-v");
  if (options.log_level == LogLevel::kDebug) words.emplace_back("-vv");
  if (options.log_level >= LogLevel::kWarning) words.emplace_back("-q");
  return words;
}

// Throws Refused for a registration that can't be read, unless it may be left out.
void refuse_unreadable(const MigrateOptions& options, const WorkloadFolder::Contents& contents) {
  for (const std::string& broken : contents.broken) {
    if (!options.keep_going) {
      throw Refused("workload-unreadable", broken, "register it anew, or remove the file");
    }
    log_warning("not moved, whatever it is: {}", broken);
  }
}

class Drain {
 public:
  Drain(const MigrateOptions& options, const WorkloadFolder::Contents& contents)
      : options_(options),
        items_(select_items(options, contents)),
        all_readable_(contents.broken.empty()),
        began_ns_(monotonic_ns()),
        screen_(options.quiet, [this](int columns, int rows) {
          return drain_lines(items_, active_items(), monotonic_ns() - began_ns_, columns, rows);
        }) {}

  // Moves what can be moved. Returns the exit code.
  int run();
  const std::vector<DrainItem>& items() const { return items_; }
  std::int64_t elapsed_ns() const { return monotonic_ns() - began_ns_; }

 private:
  struct Running {
    Running(DrainItem& its, const std::vector<std::string>& words) : item(its), job(words) {}
    DrainItem& item;
    DrainJob job;
    std::string said;
  };

  bool any(Stage stage) const;
  // Every item of the stage `from` goes through `through`, as many at a time as may be.
  void run_all(Stage from, Stage through);
  bool may_begin(Stage through) const;
  void begin(DrainItem& item, Stage stage);
  void wait();
  // Ends those whose job has ended.
  void settle();
  void hear(Running& each);
  std::vector<ActiveItem> active_items() const;
  int exit_code() const;

  const MigrateOptions& options_;
  std::vector<DrainItem> items_;
  bool all_readable_;
  std::list<Running> running_;
  bool told_to_stop_ = false;
  std::int64_t began_ns_;
  DrainScreen screen_;
};

bool Drain::any(Stage stage) const {
  return std::any_of(items_.begin(), items_.end(),
                     [stage](const DrainItem& item) { return item.stage == stage; });
}

int Drain::run() {
  run_all(Stage::kWaiting, Stage::kChecking);
  const bool all_good = !any(Stage::kStayed) && !any(Stage::kWaiting);
  if (all_good || (options_.keep_going && cancel_requested() == 0)) {
    run_all(Stage::kReady, Stage::kMoving);
  }
  return exit_code();
}

bool Drain::may_begin(Stage through) const {
  if (cancel_requested() != 0) return false;
  // A check says everything at once.
  if (through == Stage::kChecking || options_.keep_going) return true;
  return !any(Stage::kStayed) && !any(Stage::kInDoubt);
}

void Drain::run_all(Stage from, Stage through) {
  std::deque<DrainItem*> waiting;
  for (DrainItem& item : items_) {
    if (item.stage == from) waiting.push_back(&item);
  }
  for (;;) {
    while (!waiting.empty() && std::cmp_less(running_.size(), options_.parallel) &&
           may_begin(through)) {
      begin(*waiting.front(), through);
      waiting.pop_front();
    }
    if (running_.empty()) return;
    wait();
    settle();
    screen_.draw();
  }
}

void Drain::begin(DrainItem& item, Stage stage) {
  item.stage = stage;
  item.begun = stage == Stage::kMoving;
  screen_.say(stage_text(item));
  running_.emplace_back(item, words_for(options_, item));
}

void Drain::wait() {
  std::vector<pollfd> waits;
  for (const Running& each : running_) {
    waits.push_back({each.job.out_fd(), POLLIN, 0});
    waits.push_back({each.job.err_fd(), POLLIN, 0});
  }
  const timespec timeout{0, kTurnNs};
  const sigset_t mask = cancel_wait_mask();
  ::ppoll(waits.data(), waits.size(), &timeout, &mask);
  if (cancel_requested() == 0 || told_to_stop_) return;
  told_to_stop_ = true;
  screen_.say("stopping: what is underway is rolled back, the rest stays\n");
  for (const Running& each : running_) each.job.ask_to_stop();
}

void Drain::hear(Running& each) {
  const std::string lines = each.job.take_lines();
  if (options_.log_level > LogLevel::kInfo) {
    each.said += lines;
    return;
  }
  for (std::size_t at = 0; at < lines.size();) {
    const std::size_t end = std::min(lines.find('\n', at), lines.size());
    screen_.say(
        fmt::format("{}: {}\n", each.item.workload.name, printable(lines.substr(at, end - at))));
    at = end + 1;
  }
}

void Drain::settle() {
  for (auto each = running_.begin(); each != running_.end();) {
    const bool ended = each->job.take();
    hear(*each);
    if (!ended) {
      ++each;
      continue;
    }
    settle_item(each->item, each->job.exit_code(), each->job.out(), each->said);
    screen_.say(stage_text(each->item));
    each = running_.erase(each);
  }
}

std::vector<ActiveItem> Drain::active_items() const {
  std::vector<ActiveItem> active;
  std::vector<ListedMigration> listed;
  try {
    listed = list_migrations(JournalFolder(options_.state_dir));
  } catch (const Error&) {
    // Shown without.
  }
  for (const Running& each : running_) {
    ActiveItem& item = active.emplace_back(ActiveItem{&each.item, {}});
    for (const ListedMigration& migration : listed) {
      const bool its =
          migration.record.role == "source" && migration.record.agent.pid == each.job.pid();
      if (its) item.status = migration.status;
    }
  }
  return active;
}

int Drain::exit_code() const {
  if (any(Stage::kInDoubt)) return 3;
  const bool all_moved = std::all_of(items_.begin(), items_.end(), [](const DrainItem& item) {
    return item.stage == Stage::kMoved;
  });
  if (all_moved) return all_readable_ ? 0 : 1;
  const bool touched =
      std::any_of(items_.begin(), items_.end(), [](const DrainItem& item) { return item.begun; });
  return touched || cancel_requested() != 0 ? 1 : 2;
}

}  // namespace

int run_drain(const MigrateOptions& options, std::ostream& out) {
  std::optional<ReportFile> file;
  if (options.json_path) file.emplace(*options.json_path);
  const WorkloadFolder folder(options.registry);
  const UniqueFd claim = folder.try_claim();
  if (!claim.valid()) {
    throw Refused("drain-in-course", "another drain of this host is in course", "wait for its end");
  }
  DrainSummary summary;
  summary.returning = options.returning;
  summary.parallel = options.parallel;
  std::vector<DrainItem> items;
  {
    const WorkloadFolder::Contents contents = folder.load_all();
    refuse_unreadable(options, contents);
    Drain drain(options, contents);
    summary.exit_code = drain.run();
    summary.total_ns = drain.elapsed_ns();
    items = drain.items();
  }
  if (file) {
    try {
      file->write(drain_json(items, summary));
    } catch (const Error& error) {
      std::cerr << "migrate: the report could not be written: " << error.what() << '\n';
    }
  }
  const bool to_out = summary.exit_code == 0 && options.json_path != "-";
  (to_out ? out : std::cerr) << drain_text(items, summary) << std::flush;
  return summary.exit_code;
}

}  // namespace godwit
