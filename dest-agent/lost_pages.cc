#include "dest-agent/lost_pages.h"

#include <algorithm>
#include <vector>

#include "common/base/error.h"
#include "common/base/log.h"
#include "common/kernel/proc_maps.h"
#include "common/kernel/proc_status.h"
#include "common/kernel/userfaultfd.h"

namespace godwit {
namespace {

constexpr int kToldMax = 1000;

std::vector<MapsLine> areas_of(pid_t pid) {
  try {
    if (pid != 0) return read_maps(pid);
  } catch (const Error& error) {
    log_debug("pid {} is gone: {}", pid, error.what());
  }
  return {};
}

void add_area(const proto::LostArea& area, proto::RecoveryAnswer& answer) {
  if (area.pages() == 0) return;
  if (answer.areas_size() >= kToldMax) return answer.set_areas_untold(answer.areas_untold() + 1);
  *answer.add_areas() = area;
}

// Both are sorted. What lies in no area is told without a name.
void describe_areas(const proto::MissingSpace& space, pid_t pid, proto::RecoveryAnswer& answer) {
  const std::vector<MapsLine> lines = areas_of(pid);
  auto line = lines.begin();
  const MapsLine* last = nullptr;
  proto::LostArea area;
  for (const proto::PageSpan& span : space.spans()) {
    answer.set_missing_pages(answer.missing_pages() + (span.end() - span.start()) / kPageSize);
    for (Address at = span.start(); at < span.end();) {
      while (line != lines.end() && line->range.end <= at) ++line;
      const bool inside = line != lines.end() && line->range.start <= at;
      const Address border = inside                ? line->range.end
                             : line != lines.end() ? line->range.start
                                                   : span.end();
      const Address end = std::min(span.end(), border);
      const MapsLine* now = inside ? &*line : nullptr;
      if (area.pages() == 0 || now != last) {
        add_area(area, answer);
        area.Clear();
        area.set_host_pid(pid);
        area.set_start(at);
        if (inside) area.set_name(line->path);
        last = now;
      }
      area.set_end(end);
      area.set_pages(area.pages() + (end - at) / kPageSize);
      at = end;
    }
  }
  add_area(area, answer);
}

std::string area_at(const std::vector<MapsLine>& lines, Address page) {
  const auto found = std::ranges::find_if(
      lines, [page](const MapsLine& line) { return line.range.contains(page); });
  return found == lines.end() ? "" : found->path;
}

}  // namespace

// The first one is the process's own; of a forked one its waiting threads tell.
pid_t LostPages::process_of(const proto::MissingSpace& space) const {
  if (space.index() == 0) return is_alive(process_) ? process_.pid : 0;
  for (const proto::WaitingThread& waiting : space.waiting()) {
    if (const auto thread = family_.find(waiting.thread())) return thread->host_pid;
  }
  return 0;
}

void LostPages::describe_tasks(const proto::MissingSpace& space, pid_t pid,
                               proto::RecoveryAnswer& answer) const {
  const std::vector<MapsLine> lines = areas_of(pid);
  for (const proto::WaitingThread& waiting : space.waiting()) {
    const auto thread = family_.find(waiting.thread());
    if (!thread || !thread->waits) continue;
    if (answer.tasks_size() >= kToldMax) {
      answer.set_tasks_untold(answer.tasks_untold() + 1);
      continue;
    }
    proto::WaitingTask& task = *answer.add_tasks();
    task.set_host_pid(thread->host_pid);
    task.set_thread(thread->host_tid);
    task.set_name(thread->name);
    task.set_page(waiting.page());
    task.set_area(area_at(lines, waiting.page()));
  }
}

void LostPages::describe(const proto::StillMissing& missing, proto::RecoveryAnswer& answer) const {
  answer.set_host_pid(process_.pid);
  if (const auto status = try_read_proc_status(fmt::format("/proc/{}", process_.pid))) {
    if (is_alive(process_)) answer.set_name(status->name);
  }
  for (const proto::MissingSpace& space : missing.spaces()) {
    const pid_t pid = process_of(space);
    describe_areas(space, pid, answer);
    describe_tasks(space, pid, answer);
  }
}

bool LostPages::poison(proto::RecoveryAnswer& answer) {
  const proto::MissingPoisoned poisoned = pages_.poison();
  answer.set_poisoned_pages(poisoned.pages());
  if (poisoned.error() == 0) return true;
  answer.set_problem(fmt::format("UFFDIO_POISON: {}, after {} pages", errno_text(poisoned.error()),
                                 poisoned.pages()));
  answer.set_way_out("end the tasks with --kill");
  return false;
}

proto::RecoveryAnswer LostPages::answer(const proto::RecoveryRequest& request) {
  proto::RecoveryAnswer answer;
  const proto::StillMissing missing = pages_.name_missing();
  describe(missing, answer);
  if (request.choice() == proto::RecoveryRequest::TELL || missing.spaces().empty()) return answer;
  const bool can = can_poison();
  if (request.choice() == proto::RecoveryRequest::POISON) {
    if (can) {
      poison(answer);
    } else {
      answer.set_problem("this kernel has no UFFDIO_POISON (Linux 6.6)");
      answer.set_way_out("end the tasks with --kill, or go on waiting");
    }
    return answer;
  }
  // Whoever is not found must not take what is lost for zeros.
  if (can) poison(answer);
  answer.clear_problem();
  answer.clear_way_out();
  std::vector<pid_t> others;
  for (const proto::WaitingTask& task : answer.tasks()) others.push_back(task.host_pid());
  answer.set_ended_processes(family_.end(std::move(others)));
  return answer;
}

}  // namespace godwit
