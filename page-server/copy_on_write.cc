#include "page-server/copy_on_write.h"

#include <linux/userfaultfd.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>

#include "common/base/error.h"
#include "common/base/log.h"
#include "common/kernel/pagemap.h"
#include "common/kernel/userfaultfd.h"
#include "common/tracking/blocking_tracker.h"
#include "common/tracking/write_protect_arm.h"
#include "page-server/answering_precedence.h"

namespace godwit {
namespace {

// Below that, reading a run takes no longer than protecting it.
constexpr std::uint64_t kRunPagesMin = 4;
constexpr std::uint64_t kPiecePages = PageFrame::kDataPagesMax;
// While a change of the layout waits for being read.
constexpr int kAgainMs = 1;
// For a page that is gone without anything having been heard of it.
constexpr int kTriesMax = 100;
constexpr useconds_t kTryEveryUs = 500;
constexpr useconds_t kSettleUs = 20;

bool overlaps(const PageRange& one, const PageRange& other) {
  return one.start < other.end && other.start < one.end;
}

}  // namespace

CopyOnWrite::CopyOnWrite(PageServiceLink& link, UniqueFd uffd, int memory_fd, int pagemap_fd,
                         std::function<void(const std::string&)> on_failure)
    : link_(link),
      uffd_(std::move(uffd)),
      stop_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)),
      memory_fd_(memory_fd),
      pagemap_fd_(pagemap_fd),
      on_failure_(std::move(on_failure)) {
  if (!stop_.valid()) throw_system("eventfd");
  thread_ = std::thread([this] {
    try {
      serve();
    } catch (const std::exception& error) {
      on_failure_(error.what());
    }
  });
}

CopyOnWrite::~CopyOnWrite() {
  {
    const std::lock_guard lock(mutex_);
    ends_ = true;
  }
  changed_.notify_all();
  const std::uint64_t one = 1;
  if (::write(stop_.get(), &one, sizeof(one)) < 0) log_warning("waking a thread failed");
  thread_.join();
}

// --- The thread that reads the userfaultfd -------------------------------------------------------

void CopyOnWrite::serve() {
  AnsweringPrecedence precedence(link_);
  pollfd waits[2] = {{uffd_.get(), POLLIN, 0}, {stop_.get(), POLLIN, 0}};
  for (;;) {
    precedence.look();
    if (::poll(waits, 2, later_.empty() ? -1 : kAgainMs) < 0 && errno != EINTR) {
      throw_system("poll");
    }
    if (waits[1].revents != 0) return;
    while (read_one()) {
    }
    for (const Address page : std::exchange(later_, {})) take_write(page);
  }
}

// One at a time: reading lets whoever changes the layout go on.
bool CopyOnWrite::read_one() {
  uffd_msg message{};
  {
    const std::lock_guard lock(reading_events_);
    const ssize_t got = ::read(uffd_.get(), &message, sizeof(message));
    if (got < 0 && errno == EINTR) return true;
    if (got < 0 && errno != EAGAIN) throw_system("reading who waits to write");
    if (got <= 0) return false;
    if (message.event != UFFD_EVENT_PAGEFAULT) take_event(message);
  }
  if (message.event == UFFD_EVENT_PAGEFAULT) {
    take_write(message.arg.pagefault.address / kPageSize * kPageSize);
  }
  return true;
}

void CopyOnWrite::take_event(const uffd_msg& message) {
  const std::lock_guard lock(mutex_);
  PageRange range{message.arg.remove.start, message.arg.remove.end};
  switch (message.event) {
    case UFFD_EVENT_REMAP:
      range = {message.arg.remap.from, message.arg.remap.from + message.arg.remap.len};
      if (held_.any_in(range)) rescue(range, message.arg.remap.to - message.arg.remap.from);
      moved_.push_back({message.arg.remap.to, message.arg.remap.to + message.arg.remap.len});
      break;
    case UFFD_EVENT_REMOVE:
      if (held_.any_in(range)) rescue(range, 0);
      break;
    case UFFD_EVENT_UNMAP:
      if (held_.any_in(range)) lost_ = true;
      held_.clear(range);
      break;
    default:
      fail("userfaultfd: unknown event {:#x}", message.event);
  }
}

void CopyOnWrite::take_write(Address page) {
  const PageRange range{page, page + kPageSize};
  {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] {
      return ends_ ||
             (!overlaps(reading_, range) && (copies_.size() < kCopiesMax || !held_.contains(page)));
    });
    if (held_.contains(page) && !ends_) {
      auto content = copy_of(page);
      if (!content || is_changing()) {
        later_.push_back(page);  // it was moved, say, which will be heard of
        return;
      }
      copies_.push_back({page, std::move(content)});
      ++copied_pages_;
      held_.clear(range);
    }
    recent_.set(range);
  }
  let_go(page);
}

void CopyOnWrite::rescue(const PageRange& range, std::uint64_t shift) {
  std::vector<Address> pages;
  held_.for_each_run(range, [&](const PageRange& run) {
    for (Address page = run.start; page < run.end; page += kPageSize) pages.push_back(page);
  });
  for (const Address page : pages) {
    auto content = copies_.size() < 2 * kCopiesMax ? copy_of(page + shift) : nullptr;
    if (!content) {
      lost_ = true;
      break;
    }
    copies_.push_back({page, std::move(content)});
    ++copied_pages_;
  }
  held_.clear(range);
}

std::unique_ptr<std::byte[]> CopyOnWrite::copy_of(Address at) const {
  std::unique_ptr<std::byte[]> content(new std::byte[kPageSize]);
  const ssize_t got = ::pread(memory_fd_, content.get(), kPageSize, static_cast<off_t>(at));
  if (got != static_cast<ssize_t>(kPageSize)) return nullptr;
  if (!untouched({at, at + kPageSize}).contains(at)) return nullptr;
  return content;
}

PageBitmap CopyOnWrite::untouched(const PageRange& range) const {
  pagemap::Query query;
  query.inverted = query.all = pagemap::kWritten;
  query.any = pagemap::kPresent | pagemap::kSwapped;
  query.reported = pagemap::kPresent;
  std::array<pagemap::Region, 64> buffer{};
  PageBitmap pages;
  pagemap::scan(pagemap_fd_, range, query, buffer, [&](const pagemap::Region& region) {
    pages.set({region.start, region.end});
  });
  return pages;
}

// Asked for nothing, the kernel looks at this first and does nothing. To protect a page here would
// make new content look like what is held.
bool CopyOnWrite::is_changing() const {
  return try_userfaultfd_protect(uffd_.get(), {kPageSize, kPageSize}) == EAGAIN;
}

void CopyOnWrite::let_go(Address page) {
  const PageRange range{page, page + kPageSize};
  const int code = try_userfaultfd_unprotect(uffd_.get(), range);
  if (code == EAGAIN) {
    later_.push_back(page);
  } else if (code != 0) {
    userfaultfd_wake(uffd_.get(), range);  // it is not there any more: to be looked at again
  }
}

// --- The thread that saves -----------------------------------------------------------------------

void CopyOnWrite::settle() {
  for (;;) {
    std::vector<PageRange> moved;
    {
      const std::scoped_lock lock(reading_events_, mutex_);
      moved.swap(moved_);
    }
    if (moved.empty()) return;
    for (const PageRange& range : moved) {
      // What was moved on meanwhile is heard of again.
      while (try_userfaultfd_unprotect(uffd_.get(), range) == EAGAIN) ::usleep(kSettleUs);
    }
  }
}

void CopyOnWrite::hold(std::span<const TrackedArea> areas, PageBitmap& pages) {
  std::vector<PageRange> runs;
  std::uint64_t count = 0;
  for (const TrackedArea& area : areas) {
    if (area.kind != AreaKind::kAnonymous) continue;
    pages.for_each_run(area.range, [&](const PageRange& run) {
      if (run.pages() < kRunPagesMin) return;
      runs.push_back(run);
      count += run.pages();
    });
  }
  if (count <= kAtOncePages) return;
  // What was mapped just now is not registered.
  std::erase_if(runs, [&](const PageRange& run) { return !protect_blocking(uffd_.get(), run); });
  const std::lock_guard lock(mutex_);
  for (const PageRange& run : runs) {
    held_.set(run);
    held_pages_ += run.pages();
    pages.clear(run);
  }
}

void CopyOnWrite::let_go_of(std::span<const TrackedArea> areas) {
  std::vector<PageRange> ranges;
  for (const TrackedArea& area : areas) {
    if (area.kind == AreaKind::kAnonymous) ranges.push_back(area.range);
  }
  disarm_write_protect(uffd_.get(), ranges);
}

std::optional<PageRange> CopyOnWrite::claim() {
  const std::lock_guard lock(mutex_);
  const auto first = held_.find_first({0, ~std::uint64_t{0} / kPageSize * kPageSize});
  if (!first) return std::nullopt;
  bool is_set = false;
  const PageRange window{*first, *first + kPiecePages * kPageSize};
  reading_ = {*first, *first + held_.uniform_bytes(window, &is_set)};
  return reading_;
}

std::vector<CopyOnWrite::Copy> CopyOnWrite::take_copies() {
  std::vector<Copy> copies;
  {
    const std::lock_guard lock(mutex_);
    copies.swap(copies_);
  }
  changed_.notify_all();
  return copies;
}

bool CopyOnWrite::save_piece(const PageRange& piece, PageReader& reader) {
  reader.add_data(piece, AreaKind::kAnonymous);
  PageBitmap saved = untouched(piece);
  const bool changing = is_changing();
  // What was read of changes by now has been acted upon.
  { const std::lock_guard lock(reading_events_); }
  bool any = false;
  {
    const std::lock_guard lock(mutex_);
    // What is held no more was copied meanwhile: it comes once more, as it was.
    if (!changing) {
      any = !held_.any_in(piece);
      saved.for_each_run([&](const PageRange& run) {
        any = true;
        held_.clear(run);
      });
    }
    reading_ = {0, 0};
  }
  changed_.notify_all();
  if (any) try_userfaultfd_unprotect(uffd_.get(), piece);  // saves faults, no more than that
  return any;
}

// Who runs again writes there again, and need not wait for what is saved already.
void CopyOnWrite::let_go_of_recent() {
  PageBitmap recent;
  {
    const std::lock_guard lock(mutex_);
    std::swap(recent, recent_);
    held_.for_each_run([&](const PageRange& run) { recent.clear(run); });
  }
  recent.for_each_run([&](const PageRange& run) { try_userfaultfd_unprotect(uffd_.get(), run); });
}

bool CopyOnWrite::save(PageReader& reader) {
  let_go_of_recent();
  int tries = 0;
  for (;;) {
    const std::vector<Copy> copies = take_copies();
    // A page may have been read after it had been copied: the copy goes after it, in a frame of its
    // own, since a frame holds a page once.
    if (!copies.empty()) reader.send_pending();
    for (const Copy& copy : copies) reader.add_copy(copy.page, copy.content.get());
    // From here on writers wait for the reading, which must not wait for a disk.
    reader.send_pending();
    const auto piece = claim();
    {
      const std::lock_guard lock(mutex_);
      if (lost_) return false;
      if (!piece && copies_.empty()) return true;
    }
    if (!piece) continue;
    if (save_piece(*piece, reader)) {
      tries = 0;
      continue;
    }
    if (++tries == kTriesMax) return false;
    ::usleep(kTryEveryUs);
  }
}

}  // namespace godwit
