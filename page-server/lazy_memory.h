// Address spaces that run before all their pages are there: what is missing of each, and the page
// faults that say which page is needed next (userfaultfd(2), ioctl_userfaultfd(2)).
//
// The process may change its layout meanwhile. The kernel tells of it (UFFD_EVENT_*) and makes the
// process wait until it was read, and from before that on a copy fails with EAGAIN: so what is
// missing is always looked up together with the copy, and a page never lands where it was just
// removed.
//
//   fork       the child misses the same pages, at a descriptor of its own
//   mremap     pages are missing at another address now, and are still asked for by the old one
//   munmap, MADV_DONTNEED, MADV_FREE
//              they are missing no more: a fault there is one on fresh memory
//
// Thread: one at a time; the descriptors may be polled by another.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <vector>

#include "common/base/latency_histogram.h"
#include "common/base/unique_fd.h"
#include "common/tracking/page_bitmap.h"
#include "common/wire/fault_request.h"
#include "page-server/missing_ledger.h"

namespace godwit {

class LazyMemory {
 public:
  // From now on faults are served. `uffd`: non-blocking, with the events above. `space` is the
  // source's number of the address space.
  void add(std::uint32_t space, UniqueFd uffd, PageBitmap missing);

  // Everything that changes is written down there from now on.
  void keep_ledger(MissingLedger ledger) { ledger_ = std::move(ledger); }
  // A forked child's descriptor, for somebody who can hold it as well; `parent` counts spaces.
  using ChildSink = std::function<void(std::uint32_t parent, int uffd)>;
  void tell_children(ChildSink sink) { child_sink_ = std::move(sink); }

  // Goes on where another one was stopped: its descriptors in their order, and what it wrote down.
  struct Held {
    std::uint32_t parent = 0;
    UniqueFd uffd;
  };
  void resume(std::vector<Held> held, MissingLedger ledger);
  // What is missing by the source's addresses, of all spaces that have this number there.
  PageBitmap missing_at_source(std::uint32_t space) const;

  // --- Without a source --------------------------------------------------------------------------
  // What is missing of each address space, and who waits for it.
  struct Missing {
    std::size_t space = 0;  // counted in the order in which they began
    std::vector<PageRange> ranges;
    // A thread, as its own pid namespace numbers it, and the page it touched. Some may have given
    // up: killed, or interrupted.
    std::vector<std::pair<pid_t, Address>> waiting;
  };
  std::vector<Missing> name_missing() const;
  // What is missing is lost: whoever touches it gets SIGBUS. How many pages, and what ended it (0:
  // nothing is missing any more).
  struct Poisoned {
    std::uint64_t pages = 0;
    int code = 0;
  };
  Poisoned poison();
  // Nobody is left of some address spaces, which otherwise shows when something is placed.
  void notice_ended();

  bool has(std::uint32_t space) const;
  // Nothing is missing anywhere, or nobody is left who could miss it.
  bool done() const;
  std::uint64_t missing_pages() const;
  // Lets go of all descriptors: what is not there is fresh memory from now on.
  void close() { spaces_.clear(); }

  // Address spaces so far, forked ones too.
  std::size_t spaces() const { return spaces_.size(); }
  // A fault could not be answered while the layout changes: serve() again soon.
  bool awaits_layout() const;
  // To be polled; it changes with serve() and place().
  std::vector<int> descriptors() const;
  // Reads what the descriptors have. Throws Error when memory can't be given to the process.
  void serve();
  // Pages of the source came: they are placed wherever they are missing. `data` null: zeros.
  void place(std::uint32_t space, const PageRange& range, const std::byte* data) {
    put(space, range, {data, false});
  }
  // They will never come: whoever touches them gets SIGBUS. False: this kernel can't do that, and
  // they stay missing.
  bool lose(std::uint32_t space, const PageRange& range);
  // Some page of the source in the range is missing somewhere.
  bool misses(std::uint32_t space, const PageRange& range) const;

  // The next page that somebody waits for and that was not asked for yet.
  std::optional<FaultRequest> take_request();
  bool has_requests() const { return !wanted_.empty(); }
  std::uint64_t zero_faults() const { return zero_faults_; }
  // From reading of a fault until the page was placed.
  const LatencyHistogram& latencies() const { return latencies_; }

 private:
  // A piece that was moved: what is missing in `here` is at `there` in the source.
  struct Moved {
    PageRange here;
    Address there = 0;
  };
  struct Space {
    std::uint32_t index = 0;   // among all
    std::uint32_t number = 0;  // the source's
    UniqueFd uffd;
    PageBitmap missing;        // by the addresses of now
    std::vector<Moved> moved;  // disjoint
    struct Later {
      Address page = 0;
      pid_t thread = 0;
    };
    std::deque<Later> later;           // faults that could not be answered while the layout changed
    std::map<pid_t, Address> touched;  // by thread, what it touched last that was missing
    bool gone = false;
  };
  // What a page gets: bytes, zeros (null), or nothing any more.
  struct Content {
    const std::byte* data = nullptr;
    bool lost = false;
    Content behind(std::uint64_t bytes) const {
      return {data == nullptr ? nullptr : data + bytes, lost};
    }
  };
  using Key = std::pair<std::uint32_t, Address>;  // space and page of the source

  void serve(Space& space);
  void take_fault(Space& space, Address page, pid_t thread);
  bool answer_with_zeros(Space& space, Address page);
  void fork(const Space& parent, UniqueFd uffd);
  Space& new_space(std::uint32_t number, UniqueFd uffd, std::uint64_t parent);
  void note(LedgerRecord::Kind kind, const Space& space, const PageRange& range, Address to = 0);
  void replay(const LedgerRecord& record, std::vector<Held>& held);
  void end(Space& space);
  static void inherit(const Space& parent, Space& child);
  void forgotten(Space& space, const PageRange& range);
  void moved(Space& space, Address from, Address to, std::uint64_t bytes);
  // Whoever waits for something there looks again.
  static void forget(Space& space, const PageRange& range);
  static void move(Space& space, const PageRange& old, Address to);
  static Address source_of(const Space& space, Address page);
  // Where pages of the source are in this space, each with the data that belongs there.
  template <typename Sink>
  static void find_places(const Space& space, const PageRange& range, Sink sink);
  Poisoned poison(Space& space, PageRange range);
  void put(std::uint32_t space, const PageRange& range, const Content& content);
  bool place_in(Space& space, const PageRange& range, const Content& content);
  bool place_here(Space& space, PageRange here, Content content);
  void settle(std::uint32_t space, const PageRange& range);

  std::vector<std::unique_ptr<Space>> spaces_;
  MissingLedger ledger_;
  ChildSink child_sink_;
  std::map<Key, std::int64_t> asked_;  // since when, CLOCK_MONOTONIC
  std::deque<FaultRequest> wanted_;
  LatencyHistogram latencies_;
  std::uint64_t zero_faults_ = 0;
  bool cannot_poison_ = false;
};

}  // namespace godwit
