// Builds and changes the mappings of a skeleton.
//
// Change class: in place. Every private and shared anonymous range is registered with userfaultfd
// (missing) as soon as it exists, so that pages are placed by the page server with UFFDIO_COPY and
// nothing is there that did not come from the source. Shortly before the switch release() takes
// that back. Locks (mlock) come last.
#pragma once

#include <linux/prctl.h>

#include <map>
#include <memory>
#include <vector>

#include "common/base/unique_fd.h"
#include "common/model/layout_diff.h"
#include "common/remote/remote_task.h"
#include "dest-agent/restore/vdso.h"
#include "proto/mappings.pb.h"
#include "proto/page_service.pb.h"

namespace godwit {

class MappingsRestorer {
 public:
  // `agent_pidfd`: number of a pidfd of this process in the skeleton.
  MappingsRestorer(RemoteTask& task, int agent_pidfd);

  // The first time: gives the skeleton an address space with nothing in it but its vDSO (moved to
  // the place that `want` says) and its home. Then what reconcile() does.
  // `source_vdso`: see place_vdso().
  void build(std::shared_ptr<const proto::Mappings> want,
             std::span<const std::byte> source_vdso = {});
  void build(proto::Mappings want) { build(std::make_shared<proto::Mappings>(std::move(want))); }
  // The agent's pidfd has another number in the skeleton now.
  void set_agent_pidfd(int agent_pidfd) { agent_pidfd_ = agent_pidfd; }
  // Applies the difference to the last description.
  void reconcile(std::shared_ptr<const proto::Mappings> want);
  void reconcile(proto::Mappings want) {
    reconcile(std::make_shared<proto::Mappings>(std::move(want)));
  }

  // Only the marks differ from the last description.
  void reconcile_marks(const proto::MemoryMarks& want);

  // userfaultfd of the skeleton's address space.
  int userfaultfd() const { return userfaultfd_.get(); }
  // Every area that pages may be placed in. Ranges that are new since the last call are fresh.
  std::vector<proto::PageArea> take_page_areas();
  // They are the same as at the last call.
  bool has_same_page_areas() const { return !page_areas_changed_; }

  // Shortly before the blackout: nothing is registered any more (half a microsecond an area), and
  // what is still to come is written through the memory file. Without huge pages until
  // plan_process_attributes_last().
  void release();
  // In the blackout, when every page is in place: missing pages become zero pages, locks are taken.
  void finish();
  // Post-copy, instead of release(): a second userfaultfd is made ready, which tells of what the
  // process does to its layout once it runs.
  void prepare_lazily();
  // Pages that were placed and are not to be there when it runs.
  void drop(const std::vector<PageRange>& stale);
  // In the blackout, when the layout stands and what travelled is in place: drops `stale` pages,
  // and registers all private anonymous memory with it.
  void begin_lazily(const std::vector<PageRange>& stale);
  // It is to be served from then on. Once.
  UniqueFd take_lazy_userfaultfd() { return std::move(lazy_userfaultfd_); }
  // The vDSO's final place, for RemoteTask::leave_home.
  PageRange vdso() const { return vdso_.code; }
  // Of what is found in the skeleton: a vDSO that is elsewhere is told as it was described.
  void as_described(proto::Mappings& found) const;

 private:
  void check_vdso_room(const LayoutDiff& diff) const;
  UniqueFd open_userfaultfd(std::uint64_t features);
  // One call of `use` for areas that adjoin and that `wanted` takes.
  template <typename Wanted, typename Use>
  void for_each_row(Wanted wanted, Use use) const;
  void create_shared_objects(const LayoutDiff& diff);
  void map_segment(const LayoutSegment& segment, const proto::Mappings& want, SyscallBatch& batch);
  void set_marks(const proto::MemoryMarks& want, bool first);
  void unregister_areas();
  void set_first_marks(prctl_mm_map map, const proto::MemoryMarks& want);
  void register_range(const PageRange& range);
  void register_again(const PageRange& range);

  RemoteTask& task_;
  int agent_pidfd_;
  UniqueFd userfaultfd_;
  UniqueFd lazy_userfaultfd_;
  std::shared_ptr<const proto::Mappings> have_;       // as last reconciled
  proto::MemoryMarks marks_;                          // as last set
  std::map<std::uint64_t, UniqueFd> shared_objects_;  // by the source's inode
  std::vector<PageRange> fresh_;
  bool page_areas_changed_ = true;
  bool registered_ = false;  // some area is
  bool released_ = false;
  VdsoPlace vdso_;
};

}  // namespace godwit
