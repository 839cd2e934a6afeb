// The memory of the process as the source's page server gets it: which areas there are, which of
// them begin empty at the destination, and that every one of them is tracked.
//
// Write-protect tracking needs a userfaultfd of the task's address space: made inside the task by
// injection, duplicated out, closed there. While this object lives its registration stands; a task
// whose agent dies simply runs on untracked (the kernel drops the registration with the last
// descriptor).
#pragma once

#include <memory>
#include <vector>

#include "common/base/unique_fd.h"
#include "common/remote/remote_task.h"
#include "common/tracking/tracker_probe.h"
#include "proto/mappings.pb.h"
#include "proto/page_service.pb.h"

namespace godwit {

class TrackedMemory {
 public:
  // The task must be stopped. `holds_writers`: private anonymous memory is tracked in a way that
  // lets it be saved while the task runs (BlockingTracker), where the kernel can.
  TrackedMemory(RemoteTask& task, TrackerKind kind, bool holds_writers = false);

  // The page server that has the descriptor of that memory from now on, the only one there is: if
  // it dies nobody waits for it.
  void hand_over_writers(pid_t page_server);
  // The process runs on, perhaps without a RemoteTask, and is tracked no more: the destructor would
  // keep it from its memory.
  void let_go(pid_t host_pid) noexcept;
  // Before that; invalid: everything is tracked in the one way.
  const UniqueFd& writers_fd() const { return writers_; }

  // Takes a new layout: registers what is new, works out what must be sent whole. Returns true when
  // the areas differ from those of the last description. A running task is stopped for a moment
  // when there is something to register. `last`: no round but the final one follows, so nothing is
  // registered.
  bool update(std::shared_ptr<const proto::Mappings> layout, bool last = false);

  // The areas as of the last update; fresh pieces are those not yet taken by a round.
  const std::vector<proto::PageArea>& areas() const { return areas_; }
  // The description they come from.
  const proto::Mappings& layout() const { return *layout_; }
  // The layout of the last update is on its way to the destination.
  void mark_described();
  // A round has scanned them: nothing is fresh any more.
  void mark_scanned();

  // Areas that a scan found without tracking (mapped anew in the same place): registers them again.
  void track_again(std::vector<PageRange> ranges);

  // The address space of the task is the one that was tracked at first (no exec since).
  bool same_address_space() const;

  int pagemap_fd() const { return pagemap_.get(); }
  int clear_refs_fd() const { return clear_refs_.get(); }
  TrackerKind kind() const { return kind_; }

 private:
  void arm(const std::vector<PageRange>& ranges);
  // The mappings that these ranges are part of, as they are while the task stands still.
  struct Mapped {
    std::vector<PageRange> anonymous;
    std::vector<PageRange> others;
  };
  Mapped find_mappings(const std::vector<PageRange>& ranges);
  UniqueFd borrow_writers_fd() const;

  RemoteTask& task_;
  TrackerKind kind_;
  UniqueFd userfaultfd_;
  UniqueFd writers_;  // of anonymous memory, until a page server has it
  pid_t page_server_ = 0;
  UniqueFd pagemap_;
  UniqueFd clear_refs_;  // soft-dirty only
  std::shared_ptr<const proto::Mappings> layout_;
  std::shared_ptr<const proto::Mappings> described_;  // what the destination has, or will
  std::vector<PageRange> fresh_;                      // as of the last update
  std::vector<PageRange> unsent_;                     // of the description, not yet scanned
  std::vector<proto::PageArea> areas_;
};

}  // namespace godwit
