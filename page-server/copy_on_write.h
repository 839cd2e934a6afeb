// An instant of a process's memory that is saved while the process runs on: what is held of it is
// write-protected (userfaultfd(2)), and a page that is about to be written is copied first.
//
// A thread of its own reads the userfaultfd from the beginning. Before an instant is held it only
// takes protections off, so that pages count as written (BlockingTracker).
//
// What the process does to its layout meanwhile:
//   mremap         held pages are read where they are now
//   MADV_DONTNEED  the kernel tells of it and goes on as soon as that was read: held pages are
//                  copied at once, and looked at again, whether they were still there
//   munmap, brk    the kernel tells when the pages are gone: the instant is lost
//   fork           the child gets pages of its own; those of the process stay held
// A page counts as saved only if it was present and protected after it had been read, with no
// change of the layout under way: whatever else takes it away loses the instant, and never spoils
// it.
//
// Threads: hold() and save() by one thread; the userfaultfd is read by one that this starts.
#pragma once

#include <linux/userfaultfd.h>

#include <condition_variable>
#include <cstddef>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "common/base/unique_fd.h"
#include "common/tracking/dirty_tracker.h"
#include "common/tracking/page_bitmap.h"
#include "common/wire/page_service_link.h"
#include "page-server/page_reader.h"

namespace godwit {

class CopyOnWrite {
 public:
  // `uffd`: non-blocking, enabled by enable_blocking_protection(). Borrows the link and the files
  // of the process. `on_failure` is called by the thread when it can't go on.
  CopyOnWrite(PageServiceLink& link, UniqueFd uffd, int memory_fd, int pagemap_fd,
              std::function<void(const std::string&)> on_failure);
  CopyOnWrite(const CopyOnWrite&) = delete;
  CopyOnWrite& operator=(const CopyOnWrite&) = delete;
  ~CopyOnWrite();  // takes all protection off and lets everybody go on

  int uffd() const { return uffd_.get(); }

  // Before each scan: memory that was moved took its protection along, and counts as written where
  // it is now.
  void settle();

  // The process stands still: of `pages`, which were written and not saved yet, takes out what it
  // holds. What is so little that copying it takes no longer than protecting it stays there.
  void hold(std::span<const TrackedArea> areas, PageBitmap& pages);

  // The process runs: all that is held goes into `reader`. False: some of it went away before it
  // could be read, so this is no instant.
  bool save(PageReader& reader);

  // After that: takes the protection off, little by little. The destructor does it at once.
  void let_go_of(std::span<const TrackedArea> areas);

  // Pages held, and those of them that were copied because somebody was about to change them.
  std::uint64_t held_pages() const { return held_pages_; }
  std::uint64_t copied_pages() const {
    const std::lock_guard lock(mutex_);
    return copied_pages_;
  }

  static constexpr std::uint64_t kAtOncePages = 256;  // copied in less than a millisecond

 private:
  struct Copy {
    Address page = 0;
    std::unique_ptr<std::byte[]> content;
  };
  void serve();
  bool read_one();
  void take_write(Address page);
  void take_event(const uffd_msg& message);
  // Copies the held pages of `range`, which are `shift` bytes away from where they were.
  void rescue(const PageRange& range, std::uint64_t shift);
  // Null: it was written or taken away meanwhile.
  std::unique_ptr<std::byte[]> copy_of(Address at) const;
  // What is there and was not changed since it was protected.
  PageBitmap untouched(const PageRange& range) const;
  // The kernel is between telling of a change and having made it, or the other way round.
  bool is_changing() const;
  void let_go(Address page);
  std::optional<PageRange> claim();
  // False: none of the piece could be saved.
  bool save_piece(const PageRange& piece, PageReader& reader);
  std::vector<Copy> take_copies();
  void let_go_of_recent();

  static constexpr std::size_t kCopiesMax = 16384;  // 64 MiB; then writers wait for the disk

  PageServiceLink& link_;
  UniqueFd uffd_;
  UniqueFd stop_;
  int memory_fd_;
  int pagemap_fd_;
  std::function<void(const std::string&)> on_failure_;

  std::mutex reading_events_;  // from before the reading of an event until it was acted upon
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  PageBitmap held_;
  PageRange reading_{0, 0};  // is read by save() just now
  std::vector<Copy> copies_;
  std::vector<PageRange> moved_;  // to there, since settle()
  PageBitmap recent_;             // somebody waited to write there
  bool lost_ = false;
  bool ends_ = false;
  std::uint64_t held_pages_ = 0;  // of save()'s thread
  std::uint64_t copied_pages_ = 0;

  std::vector<Address> later_;  // the thread's: writers who wait while the layout changes
  std::thread thread_;
};

}  // namespace godwit
