// Reads pages of a task through its memory file (/proc/PID/mem, proc(5)) into frames.
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "common/base/page_range.h"
#include "common/tracking/dirty_tracker.h"
#include "common/tracking/page_bitmap.h"
#include "common/tracking/page_values.h"
#include "page-server/frame_sink.h"

namespace godwit {

struct RoundStatistics {
  std::uint64_t pages = 0;
  std::uint64_t zero_pages = 0;  // found to be zero, whether or not the destination had to be told
  std::uint64_t bytes = 0;
};

// XXH3 of what was sent of a page.
using PageContents = PageValues<std::uint64_t>;

class PageReader {
 public:
  // Borrows all of it. `sent` follows what the destination will hold.
  PageReader(int memory_fd, FrameSink& sink, PageBitmap& sent, std::uint32_t space,
             std::uint32_t round, std::uint64_t generation, bool final);

  // Puts `range`, inside an area of this kind, into frames. Pages that are not mapped any more are
  // left out while the task runs, since a later description drops them, and are an Error in the
  // final round. Throws Error with code ESRCH when the address space is gone.
  void add_data(PageRange range, AreaKind kind);
  void add_zero(const PageRange& range);
  // A page of anonymous memory, as it was read before.
  void add_copy(Address page, const std::byte* content);
  // Hands over what is pending, so that the next frame's worth of pages does not wait for the sink.
  void send_pending() { flush(); }
  // The destination waits for every page: one that is all zeros is told as well.
  void tell_zeros() { tells_zeros_ = true; }
  // They were named as missing before.
  void follow() { type_ = PageFrame::Type::kFollowing; }
  // Pages of shared memory whose content the destination has already are left out; `contents` has
  // their checksums, borrowed, from round to round.
  void compare_shared(PageContents& contents) { contents_ = &contents; }
  // Sends what is pending and the frame that ends the round.
  void finish();

  const RoundStatistics& statistics() const { return statistics_; }

 private:
  PageFrame& frame();
  void flush();
  void take(Address start, std::span<std::byte> data, AreaKind kind);
  enum class Fate : std::uint8_t { kData, kZero, kLeftOut };
  Fate fate_of(Address page, const std::byte* content, AreaKind kind);
  // Bytes read from `from`, whole pages; 0: the first page cannot be read.
  std::uint64_t read_pages(Address from, std::span<std::byte> to) const;

  int memory_fd_;
  FrameSink& sink_;
  PageBitmap& sent_;
  std::uint32_t space_;
  std::uint32_t round_;
  std::uint64_t generation_;
  bool final_;
  bool tells_zeros_ = false;
  PageFrame::Type type_ = PageFrame::Type::kPages;
  PageContents* contents_ = nullptr;
  std::unique_ptr<PageFrame> frame_;
  RoundStatistics statistics_;
};

// Throws Error with code ESRCH unless the address space behind the memory file still lives: a dead
// one reads as empty everywhere.
void require_alive(int memory_fd, Address somewhere);

// Whether there is a page at this address that can be read.
bool is_readable(int memory_fd, Address page);

}  // namespace godwit
