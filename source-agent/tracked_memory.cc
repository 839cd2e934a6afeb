#include "source-agent/tracked_memory.h"

#include <linux/userfaultfd.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>

#include "common/base/error.h"
#include "common/base/log.h"
#include "common/base/scope_exit.h"
#include "common/kernel/pidfd.h"
#include "common/kernel/proc_maps.h"
#include "common/model/layout_diff.h"
#include "common/model/page_areas.h"
#include "common/tracking/blocking_tracker.h"
#include "common/tracking/write_protect_arm.h"
#include "source-agent/task_userfaultfd.h"

namespace godwit {
TrackedMemory::TrackedMemory(RemoteTask& task, TrackerKind kind, bool holds_writers)
    : task_(task),
      kind_(kind),
      layout_(std::make_shared<const proto::Mappings>()),
      described_(layout_) {
  const std::string directory = fmt::format("/proc/{}", task.host_pid());
  pagemap_ = open_file(directory + "/pagemap", O_RDWR);
  if (kind == TrackerKind::kSoftDirty) {
    clear_refs_ = open_file(directory + "/clear_refs", O_WRONLY);
    return;
  }
  userfaultfd_ = make_tracking_userfaultfd(task);
  enable_write_protect_tracking(userfaultfd_.get());
  if (!holds_writers) return;
  writers_ = try_make_blocking_userfaultfd(task);
  if (!writers_.valid()) log_info("the kernel lets no userfaultfd hold up writers");
}

void TrackedMemory::hand_over_writers(pid_t page_server) {
  page_server_ = page_server;
  writers_.reset();
}

void TrackedMemory::let_go(pid_t host_pid) noexcept {
  if (kind_ == TrackerKind::kSoftDirty) return;
  try {
    std::vector<PageRange> ranges;
    const std::string path = fmt::format("/proc/{}/maps", host_pid);
    visit_maps(read_file(path), path, [&](const MapsLine& line) {
      if (!line.shared) ranges.push_back(line.range);
    });
    disarm_write_protect(userfaultfd_.get(), ranges);
  } catch (const std::exception& error) {
    log_debug("tracking is left to its end: {}", error.what());
  }
}

bool TrackedMemory::update(std::shared_ptr<const proto::Mappings> layout, bool last) {
  const LayoutDiff diff = diff_layout(*layout_, *layout);
  for (const LayoutSegment& segment : diff.map) {
    log_debug("layout new={:x}-{:x}", segment.range.start, segment.range.end);
  }
  for (const PageRange& range : diff.unmap) {
    log_debug("layout gone={:x}-{:x}", range.start, range.end);
  }
  for (const LayoutSegment& segment : diff.change) {
    log_debug("layout changed={:x}-{:x} protection={}->{} flags={}->{}", segment.range.start,
              segment.range.end, segment.have->protection(), segment.want->protection(),
              segment.have->flags(), segment.want->flags());
  }
  std::vector<PageRange> added;
  for (const LayoutSegment& segment : diff.map) added.push_back(segment.range);
  if (!last) arm(added);
  // What begins empty there follows from the description that the destination has, whatever was
  // seen here in between.
  const LayoutDiff change = diff_layout(*described_, *layout);
  fresh_ = unsent_;
  for (const LayoutSegment& segment : change.map) fresh_.push_back(segment.range);
  std::sort(fresh_.begin(), fresh_.end(),
            [](const PageRange& a, const PageRange& b) { return a.start < b.start; });
  fresh_.erase(std::unique(fresh_.begin(), fresh_.end()), fresh_.end());
  layout_ = std::move(layout);
  areas_ = page_areas(*layout_, fresh_);
  return !change.empty();
}

void TrackedMemory::mark_described() {
  described_ = layout_;
  unsent_ = fresh_;
}

void TrackedMemory::mark_scanned() {
  unsent_.clear();
  if (fresh_.empty()) return;
  fresh_.clear();
  areas_ = page_areas(*layout_, fresh_);
}

// Registering splits a mapping where the range ends inside of it, and a program can tell: mremap
// refuses a range of two mappings. What was described while the task ran may be out of date, so
// whole mappings are registered, as they are while it stands still.
void TrackedMemory::arm(const std::vector<PageRange>& ranges) {
  if (kind_ == TrackerKind::kSoftDirty || ranges.empty()) return;
  Mapped mapped;
  const UniqueFd borrowed = borrow_writers_fd();
  const int writers = borrowed.valid() ? borrowed.get() : writers_.get();
  {
    const bool stops = !task_.stopped();
    if (stops) task_.stop();
    const ScopeExit go_on([&] {
      if (stops) task_.resume();
    });
    mapped = find_mappings(ranges);
    // Shared file mappings and the vDSO are refused by the kernel, and nothing of them is sent.
    std::vector<UnarmedRange> unarmed = arm_write_protect(userfaultfd_.get(), mapped.others);
    if (writers >= 0) {
      for (const UnarmedRange& each : arm_write_protect(writers, mapped.anonymous)) {
        unarmed.push_back(each);
      }
    }
    for (const UnarmedRange& each : unarmed) {
      log_debug("not tracked area={:x}-{:x} {}", each.range.start, each.range.end,
                errno_text(each.code));
    }
  }
  forget_old_protection(userfaultfd_.get(), pagemap_.get(), mapped.others);
  if (writers >= 0) forget_old_protection(writers, pagemap_.get(), mapped.anonymous, true);
}

TrackedMemory::Mapped TrackedMemory::find_mappings(const std::vector<PageRange>& ranges) {
  Mapped mapped;
  const bool apart = writers_.valid() || page_server_ != 0;
  auto range = ranges.begin();  // in address order, as the lines are
  const std::string path = fmt::format("/proc/{}/maps", task_.host_pid());
  visit_maps(read_file(path), path, [&](const MapsLine& line) {
    while (range != ranges.end() && range->end <= line.range.start) ++range;
    const bool wanted = range != ranges.end() && range->overlaps(line.range);
    if (!wanted || task_.is_scratch(line.range)) return;
    const bool anonymous = apart && !line.shared && line.inode == 0;
    (anonymous ? mapped.anonymous : mapped.others).push_back(line.range);
  });
  return mapped;
}

// By what it is called among the page server's, which has one of them.
UniqueFd TrackedMemory::borrow_writers_fd() const {
  if (page_server_ == 0) return {};
  const std::filesystem::path folder = fmt::format("/proc/{}/fd", page_server_);
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    std::error_code gone;
    const auto what = std::filesystem::read_symlink(entry.path(), gone);
    if (gone || what != "anon_inode:[userfaultfd]") continue;
    return copy_fd_of(open_pidfd(page_server_), std::stoi(entry.path().filename().string()));
  }
  throw Error("the page server has no userfaultfd any more", ESRCH);
}

void TrackedMemory::track_again(std::vector<PageRange> ranges) {
  std::sort(ranges.begin(), ranges.end(),
            [](const PageRange& a, const PageRange& b) { return a.start < b.start; });
  arm(ranges);
}

bool TrackedMemory::same_address_space() const {
  // The descriptor stays with the address space it was opened on; after an exec that one is gone
  // and reads end at once.
  for (const proto::PageArea& area : areas_) {
    if (area.reserved()) continue;
    char byte = 0;
    return ::pread(task_.memory_fd(), &byte, 1, static_cast<off_t>(area.start())) != 0;
  }
  return true;
}

}  // namespace godwit
