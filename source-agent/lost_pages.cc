#include "source-agent/lost_pages.h"

#include <fmt/format.h>

#include <optional>
#include <vector>

#include "common/base/error.h"
#include "common/base/human_text.h"
#include "common/base/page_range.h"
#include "common/base/printable.h"
#include "common/model/journal.h"
#include "common/wire/recovery_socket.h"

namespace godwit {
namespace {

using Choice = MigrateOptions::LostPages;
using Tell = std::function<void(const std::string&)>;

// Giving up takes as long as its tasks take to end, and one pass over what is missing.
constexpr std::int64_t kAnswerTimeoutNs = 120'000'000'000;

struct Waiting {
  std::string migration_id;
  proto::RecoveryAnswer answer;
};

std::optional<proto::RecoveryAnswer> ask(const MigrateOptions& options, const std::string& id,
                                         proto::RecoveryRequest::Choice choice) {
  proto::RecoveryRequest request;
  request.set_choice(choice);
  return ask_recovery(recovery_socket_path(options.state_dir, id), request, kAnswerTimeoutNs);
}

std::string area_text(const std::string& name) {
  return name.empty() ? "(anonymous)" : printable(name);
}

void tell_areas(const proto::RecoveryAnswer& answer, const Tell& tell) {
  for (const proto::LostArea& area : answer.areas()) {
    const std::string of =
        area.host_pid() == 0 ? std::string("a child") : fmt::format("pid {}", area.host_pid());
    tell(fmt::format("  {}: {} of {:x}-{:x} {}", of, count_text(area.pages(), "page"), area.start(),
                     area.end(), area_text(area.name())));
  }
  if (answer.areas_untold() > 0) tell(fmt::format("  and {} areas more", answer.areas_untold()));
}

void tell_tasks(const proto::RecoveryAnswer& answer, const Tell& tell) {
  if (answer.tasks().empty()) tell("  nobody waits for any of them yet");
  for (const proto::WaitingTask& task : answer.tasks()) {
    tell(fmt::format("  pid {} thread {} ({}) waits for the page at {:x} {}", task.host_pid(),
                     task.thread(), printable(task.name()), task.page(), area_text(task.area())));
  }
  if (answer.tasks_untold() > 0) tell(fmt::format("  and {} threads more", answer.tasks_untold()));
}

void tell_all(const Waiting& waiting, const Tell& tell) {
  const proto::RecoveryAnswer& answer = waiting.answer;
  const std::string process = answer.name().empty()
                                  ? std::string("has ended, its children run on")
                                  : fmt::format("({}) runs here", printable(answer.name()));
  tell(fmt::format("{}: pid {} {}; {} are missing ({}), and their source is away",
                   waiting.migration_id, answer.host_pid(), process,
                   count_text(answer.missing_pages(), "page"),
                   bytes_text(answer.missing_pages() * kPageSize)));
  tell_areas(answer, tell);
  tell_tasks(answer, tell);
}

void offer(const Waiting& waiting, const Tell& tell) {
  tell(
      fmt::format("  `migrate recover` on the source sends them, if its copy is still there. Else, "
                  "here:\n"
                  "    migrate recover --migration {0} --wait    go on waiting\n"
                  "    migrate recover --migration {0} --poison  SIGBUS for whoever touches one\n"
                  "    migrate recover --migration {0} --kill    end the tasks",
                  waiting.migration_id));
}

[[noreturn]] void refuse_without_source(const std::string& id) {
  throw Error(fmt::format("{}: its source is connected, or nothing is missing any more: there are "
                          "no lost pages to choose about",
                          id))
      .with_hint("`migrate status` says how it goes on");
}

// A record of a process whose pages nobody holds, which no choice brings back.
void tell_unheld(const JournalRecord& record, const Tell& tell) {
  tell(
      fmt::format("{}: pid {} ran with pages missing, and nobody holds them any more: the daemon "
                  "and its session were killed together. What was missing reads as zeros: end the "
                  "process",
                  record.migration_id, record.process.pid));
}

std::vector<Waiting> find_waiting(const MigrateOptions& options, const Tell& tell) {
  std::vector<Waiting> found;
  for (const JournalRecord& record :
       JournalFolder(options.state_dir).load_all("destination").records) {
    const bool meant = options.migration_id.empty() || options.migration_id == record.migration_id;
    if (!meant || !record.misses_pages) continue;
    auto answer = ask(options, record.migration_id, proto::RecoveryRequest::TELL);
    if (!answer) {
      if (!is_alive(record.agent) && is_alive(record.process)) tell_unheld(record, tell);
      continue;
    }
    if (!answer->problem().empty()) fail("{}: {}", record.migration_id, answer->problem());
    if (answer->has_source() || answer->missing_pages() == 0) continue;
    found.push_back({record.migration_id, std::move(*answer)});
  }
  return found;
}

void require_known(const MigrateOptions& options) {
  const JournalFolder folder(options.state_dir);
  for (const char* role : {"source", "destination"}) {
    for (const JournalRecord& record : folder.load_all(role).records) {
      if (record.migration_id == options.migration_id) return;
    }
  }
  throw Error(fmt::format("no migration {} in {}", options.migration_id, options.state_dir))
      .with_hint("`migrate status` lists those of this host");
}

void carry_out(const MigrateOptions& options, const Waiting& waiting, const Tell& tell) {
  const bool kill = options.lost_pages == Choice::kKill;
  const auto answer = ask(options, waiting.migration_id,
                          kill ? proto::RecoveryRequest::KILL : proto::RecoveryRequest::POISON);
  if (!answer) {
    throw Error(fmt::format("{}: its session ended before it answered", waiting.migration_id))
        .with_hint("look again with: migrate recover");
  }
  if (!answer->problem().empty()) {
    throw Error(fmt::format("{}: {}", waiting.migration_id, answer->problem()))
        .with_hint(answer->way_out());
  }
  if (answer->has_source() || answer->missing_pages() == 0) {
    refuse_without_source(waiting.migration_id);
  }
  if (kill) {
    tell(fmt::format("{}: pid {}: {} ended, {} are lost", waiting.migration_id, answer->host_pid(),
                     count_text(answer->ended_processes(), "task"),
                     count_text(answer->missing_pages(), "page")));
  } else {
    tell(fmt::format("{}: pid {} runs on; {} are lost: whoever touches one gets SIGBUS",
                     waiting.migration_id, answer->host_pid(),
                     count_text(answer->poisoned_pages(), "page")));
  }
}

}  // namespace

bool settle_lost_pages(const MigrateOptions& options, const Tell& tell) {
  if (!options.migration_id.empty()) require_known(options);
  const std::vector<Waiting> found = find_waiting(options, tell);
  if (options.lost_pages == Choice::kTell) {
    for (const Waiting& waiting : found) {
      tell_all(waiting, tell);
      offer(waiting, tell);
    }
    return found.empty();
  }
  if (found.empty() && !options.migration_id.empty()) refuse_without_source(options.migration_id);
  if (found.empty()) fail("nothing in {} waits for lost pages", options.state_dir);
  if (found.size() > 1 && options.migration_id.empty() && options.lost_pages != Choice::kWait) {
    throw Error(fmt::format("{} migrations wait for lost pages", found.size()))
        .with_hint("name one with --migration; `migrate recover` lists them");
  }
  for (const Waiting& waiting : found) {
    tell_all(waiting, tell);
    if (options.lost_pages == Choice::kWait) {
      tell("  it goes on waiting");
    } else {
      carry_out(options, waiting, tell);
    }
  }
  return true;
}

}  // namespace godwit
