#include "page-server/lazy_memory.h"

#include <linux/userfaultfd.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <limits>

#include "common/base/clock.h"
#include "common/base/error.h"
#include "common/kernel/userfaultfd.h"

namespace godwit {
namespace {

constexpr std::size_t kMessagesAtOnce = 16;
constexpr std::uint64_t kZeroPagesAtOnce = 16;
constexpr timespec kLayoutPause{0, 20'000};
// A range that ends beyond what a processor's processes can have is refused as a whole.
constexpr PageRange kHalvesOfMemory[] = {{64 << 10, (1ULL << 47) - kPageSize},
                                         {1ULL << 47, (1ULL << 48) - kPageSize}};

PageRange page_at(Address page) { return {page, page + kPageSize}; }

CopyOutcome fill(int uffd, const PageRange& range, const std::byte* data, bool lost) {
  if (lost) return userfaultfd_poison(uffd, range);
  if (data == nullptr) return userfaultfd_zero(uffd, range);
  return userfaultfd_copy(uffd, range.start, data, range.bytes());
}

}  // namespace

void LazyMemory::add(std::uint32_t space, UniqueFd uffd, PageBitmap missing) {
  Space& added = new_space(space, std::move(uffd), kNoParent);
  added.missing = std::move(missing);
  added.missing.for_each_run(
      [&](const PageRange& run) { note(LedgerRecord::Kind::kMissing, added, run); });
}

LazyMemory::Space& LazyMemory::new_space(std::uint32_t number, UniqueFd uffd,
                                         std::uint64_t parent) {
  auto added = std::make_unique<Space>();
  added->index = static_cast<std::uint32_t>(spaces_.size());
  added->number = number;
  added->uffd = std::move(uffd);
  spaces_.push_back(std::move(added));
  note(LedgerRecord::Kind::kSpace, *spaces_.back(), {number, parent});
  return *spaces_.back();
}

void LazyMemory::note(LedgerRecord::Kind kind, const Space& space, const PageRange& range,
                      Address to) {
  ledger_.add({kind, space.index, range, to});
}

void LazyMemory::end(Space& space) {
  space.gone = true;
  note(LedgerRecord::Kind::kGone, space, {});
}

bool LazyMemory::has(std::uint32_t space) const {
  return std::ranges::any_of(spaces_, [&](const auto& each) { return each->number == space; });
}

bool LazyMemory::done() const {
  return std::ranges::all_of(spaces_,
                             [](const auto& each) { return each->gone || each->missing.empty(); });
}

std::uint64_t LazyMemory::missing_pages() const {
  std::uint64_t pages = 0;
  for (const auto& space : spaces_) pages += space->gone ? 0 : space->missing.count();
  return pages;
}

std::vector<int> LazyMemory::descriptors() const {
  std::vector<int> fds;
  for (const auto& space : spaces_) {
    if (!space->gone) fds.push_back(space->uffd.get());
  }
  return fds;
}

bool LazyMemory::awaits_layout() const {
  return std::ranges::any_of(spaces_,
                             [](const auto& each) { return !each->gone && !each->later.empty(); });
}

void LazyMemory::serve() {
  // A fork adds spaces at the end.
  for (std::size_t at = 0; at < spaces_.size(); ++at) {
    if (!spaces_[at]->gone) serve(*spaces_[at]);
  }
}

void LazyMemory::serve(Space& space) {
  std::array<uffd_msg, kMessagesAtOnce> messages;
  std::deque<Space::Later> again = std::exchange(space.later, {});
  for (;;) {
    const ssize_t got = ::read(space.uffd.get(), messages.data(), sizeof(messages));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0 && errno != EAGAIN) throw_system("reading page faults");
    if (got <= 0) break;
    for (std::size_t at = 0; at < static_cast<std::size_t>(got) / sizeof(uffd_msg); ++at) {
      const uffd_msg& message = messages[at];
      switch (message.event) {
        case UFFD_EVENT_PAGEFAULT:
          take_fault(space, message.arg.pagefault.address / kPageSize * kPageSize,
                     static_cast<pid_t>(message.arg.pagefault.feat.ptid));
          break;
        case UFFD_EVENT_FORK:
          fork(space, UniqueFd(static_cast<int>(message.arg.fork.ufd)));
          break;
        case UFFD_EVENT_REMAP:
          moved(space, message.arg.remap.from, message.arg.remap.to, message.arg.remap.len);
          break;
        case UFFD_EVENT_REMOVE:
        case UFFD_EVENT_UNMAP:
          forgotten(space, {message.arg.remove.start, message.arg.remove.end});
          break;
        default:
          fail("userfaultfd: unknown event {:#x}", message.event);
      }
    }
  }
  for (const auto& [page, thread] : again) take_fault(space, page, thread);
}

void LazyMemory::take_fault(Space& space, Address page, pid_t thread) {
  if (!space.missing.contains(page)) {
    ++zero_faults_;
    if (!answer_with_zeros(space, page)) space.later.push_back({page, thread});
    return;
  }
  space.touched[thread] = page;
  const Key key{space.number, source_of(space, page)};
  if (asked_.try_emplace(key, monotonic_ns()).second) {
    wanted_.push_back({space.number, key.second});
  }
}

// False: the layout is just being changed. What follows is likely to be touched next, and costs no
// memory before it is written to.
bool LazyMemory::answer_with_zeros(Space& space, Address page) {
  bool missing = false;
  PageRange range{page, page + kZeroPagesAtOnce * kPageSize};
  range.end = page + space.missing.uniform_bytes(range, &missing);
  CopyOutcome outcome = userfaultfd_zero(space.uffd.get(), range);
  // Only what lies in one mapping is taken.
  if (outcome.code == ENOENT) outcome = userfaultfd_zero(space.uffd.get(), page_at(page));
  if (outcome.bytes > 0) return true;
  switch (outcome.code) {
    case EAGAIN:
      return false;
    case EEXIST:
    case ENOENT:
      userfaultfd_wake(space.uffd.get(), page_at(page));
      return true;
    case ESRCH:
    case ENOSPC:
      end(space);
      return true;
    default:
      throw_errno(outcome.code, fmt::format("giving the process a page at {:x}", page));
  }
}

void LazyMemory::fork(const Space& parent, UniqueFd uffd) {
  // First of all: without a second holder it would be lost with this program.
  if (child_sink_) child_sink_(parent.index, uffd.get());
  inherit(parent, new_space(parent.number, std::move(uffd), parent.index));
}

void LazyMemory::inherit(const Space& parent, Space& child) {
  parent.missing.for_each_run([&](const PageRange& run) { child.missing.set(run); });
  child.moved = parent.moved;
}

void LazyMemory::forgotten(Space& space, const PageRange& range) {
  forget(space, range);
  note(LedgerRecord::Kind::kForgotten, space, range);
}

void LazyMemory::moved(Space& space, Address from, Address to, std::uint64_t bytes) {
  move(space, {from, from + bytes}, to);
  note(LedgerRecord::Kind::kMoved, space, {from, from + bytes}, to);
}

void LazyMemory::forget(Space& space, const PageRange& range) {
  space.missing.clear(range);
  std::vector<Moved> left;
  for (const Moved& piece : space.moved) {
    if (!piece.here.overlaps(range)) {
      left.push_back(piece);
      continue;
    }
    if (piece.here.start < range.start)
      left.push_back({{piece.here.start, range.start}, piece.there});
    if (piece.here.end > range.end) {
      left.push_back({{range.end, piece.here.end}, piece.there + (range.end - piece.here.start)});
    }
  }
  space.moved = std::move(left);
  userfaultfd_wake(space.uffd.get(), range);
}

void LazyMemory::move(Space& space, const PageRange& old, Address to) {
  const Address from = old.start;
  const PageRange now{to, to + old.bytes()};
  std::vector<PageRange> runs;
  std::vector<Moved> pieces;
  space.missing.for_each_run(old, [&](const PageRange& run) { runs.push_back(run); });
  // What lies in moved pieces comes from where they came from, the rest from where it was.
  Address at = from;
  const auto add = [&](Address end, Address there) {
    if (at < end) pieces.push_back({{at - from + to, end - from + to}, there});
    at = std::max(at, end);
  };
  std::ranges::sort(space.moved, {}, [](const Moved& piece) { return piece.here.start; });
  for (const Moved& piece : space.moved) {
    if (!piece.here.overlaps(old)) continue;
    add(std::max(piece.here.start, from), at);
    add(std::min(piece.here.end, old.end), piece.there + (at - piece.here.start));
  }
  add(old.end, at);
  forget(space, old);
  forget(space, now);
  for (const PageRange& run : runs) {
    space.missing.set({run.start - from + to, run.end - from + to});
  }
  if (runs.empty()) return;
  space.moved.insert(space.moved.end(), pieces.begin(), pieces.end());
}

Address LazyMemory::source_of(const Space& space, Address page) {
  for (const Moved& piece : space.moved) {
    if (piece.here.contains(page)) return piece.there + (page - piece.here.start);
  }
  return page;
}

template <typename Sink>
void LazyMemory::find_places(const Space& space, const PageRange& range, Sink sink) {
  // In its own place, as far as nothing was moved there.
  Address at = range.start;
  if (!space.moved.empty()) {
    std::vector<PageRange> covered;
    for (const Moved& piece : space.moved) {
      if (piece.here.overlaps(range)) covered.push_back(piece.here);
      const PageRange there{piece.there, piece.there + piece.here.bytes()};
      if (!there.overlaps(range)) continue;
      const Address start = std::max(there.start, range.start);
      const Address end = std::min(there.end, range.end);
      sink(PageRange{start - piece.there + piece.here.start, end - piece.there + piece.here.start},
           start - range.start);
    }
    std::ranges::sort(covered, {}, &PageRange::start);
    for (const PageRange& piece : covered) {
      if (at < piece.start) sink(PageRange{at, piece.start}, at - range.start);
      at = std::max(at, piece.end);
    }
  }
  if (at < range.end) sink(PageRange{at, range.end}, at - range.start);
}

bool LazyMemory::lose(std::uint32_t space, const PageRange& range) {
  put(space, range, {nullptr, true});
  return !cannot_poison_;
}

bool LazyMemory::misses(std::uint32_t space, const PageRange& range) const {
  return std::ranges::any_of(spaces_, [&](const auto& each) {
    if (each->gone || each->number != space) return false;
    bool missing = false;
    find_places(*each, range, [&](const PageRange& here, std::uint64_t) {
      missing = missing || each->missing.any_in(here);
    });
    return missing;
  });
}

void LazyMemory::put(std::uint32_t space, const PageRange& range, const Content& content) {
  for (std::size_t at = 0; at < spaces_.size(); ++at) {
    Space& each = *spaces_[at];
    while (!each.gone && each.number == space && !place_in(each, range, content)) {
      // Even with precedence over whoever changes it.
      ::clock_nanosleep(CLOCK_MONOTONIC, 0, &kLayoutPause, nullptr);
    }
  }
  settle(space, range);
}

// False: the layout was changed meanwhile, and what was not placed yet may miss somewhere else now.
bool LazyMemory::place_in(Space& space, const PageRange& range, const Content& content) {
  if (space.moved.empty()) return place_here(space, range, content);
  std::vector<std::pair<PageRange, std::uint64_t>> places;
  find_places(space, range, [&](const PageRange& here, std::uint64_t offset) {
    places.emplace_back(here, offset);
  });
  return std::ranges::all_of(places, [&](const auto& place) {
    return place_here(space, place.first, content.behind(place.second));
  });
}

bool LazyMemory::place_here(Space& space, PageRange here, Content content) {
  std::uint64_t step_max = std::numeric_limits<std::uint64_t>::max();
  std::optional<Address> absent;
  while (here.start < here.end) {
    bool missing = false;
    std::uint64_t done = space.missing.uniform_bytes(here, &missing);
    if (missing) {
      const PageRange part{here.start, here.start + std::min(done, step_max)};
      const CopyOutcome outcome = fill(space.uffd.get(), part, content.data, content.lost);
      done = outcome.bytes;
      if (done == 0 && outcome.code == EAGAIN) {
        serve(space);
        return false;
      }
      if (done == 0 && outcome.code == ENOENT && part.bytes() > kPageSize) {
        step_max = kPageSize;  // it may reach beyond the end of a mapping, which is refused whole
        continue;
      }
      if (done == 0 && outcome.code == ENOENT && absent != part.start) {
        absent = part.start;  // or it moves away just now: then EAGAIN is the next answer
        continue;
      }
      if (done == 0 && (outcome.code == ESRCH || outcome.code == ENOSPC)) {
        end(space);
        return true;
      }
      if (done == 0 && content.lost && outcome.code == EINVAL) {
        cannot_poison_ = true;
        return true;
      }
      if (done == 0) {
        if (outcome.code != EEXIST && outcome.code != ENOENT) {
          throw_errno(outcome.code, fmt::format("placing the page at {:x}", part.start));
        }
        userfaultfd_wake(space.uffd.get(), page_at(part.start));
        done = kPageSize;
      }
      space.missing.clear({here.start, here.start + done});
      note(LedgerRecord::Kind::kThere, space, {here.start, here.start + done});
    }
    here.start += done;
    content = content.behind(done);
  }
  return true;
}

void LazyMemory::settle(std::uint32_t space, const PageRange& range) {
  auto first = asked_.lower_bound({space, range.start});
  const auto last = asked_.lower_bound({space, range.end});
  const std::int64_t now = first == last ? 0 : monotonic_ns();
  for (; first != last; first = asked_.erase(first)) latencies_.add(now - first->second);
}

std::optional<FaultRequest> LazyMemory::take_request() {
  if (wanted_.empty()) return std::nullopt;
  const FaultRequest request = wanted_.front();
  wanted_.pop_front();
  return request;
}

void LazyMemory::resume(std::vector<Held> held, MissingLedger ledger) {
  ledger.replay([&](const LedgerRecord& record) { replay(record, held); });
  ledger_ = std::move(ledger);
  // Whose record is not there was forked in the last instant.
  for (std::size_t at = spaces_.size(); at < held.size(); ++at) {
    const std::uint32_t parent = held[at].parent;
    if (parent >= spaces_.size()) fail("what is missing: no address space {}", parent);
    Space& child = new_space(spaces_[parent]->number, std::move(held[at].uffd), parent);
    inherit(*spaces_[parent], child);
  }
  // Faults that were read and not answered: those who wait look again, and are heard again.
  for (const auto& space : spaces_) {
    for (const PageRange& half : kHalvesOfMemory) userfaultfd_wake(space->uffd.get(), half);
  }
}

void LazyMemory::replay(const LedgerRecord& record, std::vector<Held>& held) {
  using Kind = LedgerRecord::Kind;
  if (record.kind == Kind::kSpace) {
    const std::uint64_t parent = record.range.end;
    if (record.space != spaces_.size() || record.space >= held.size() ||
        (parent != kNoParent && parent >= spaces_.size())) {
      fail("what is missing: address space {} has no descriptor or no parent", record.space);
    }
    Space& space = new_space(static_cast<std::uint32_t>(record.range.start),
                             std::move(held[record.space].uffd), parent);
    if (parent != kNoParent) inherit(*spaces_[parent], space);
    return;
  }
  if (record.space >= spaces_.size()) fail("what is missing: no address space {}", record.space);
  Space& space = *spaces_[record.space];
  switch (record.kind) {
    case Kind::kMissing:
      return space.missing.set(record.range);
    case Kind::kThere:
      return space.missing.clear(record.range);
    case Kind::kForgotten:
      return forget(space, record.range);
    case Kind::kMoved:
      return move(space, record.range, record.to);
    default:
      space.gone = true;
  }
}

PageBitmap LazyMemory::missing_at_source(std::uint32_t number) const {
  PageBitmap pages;
  for (const auto& space : spaces_) {
    if (space->gone || space->number != number) continue;
    space->missing.for_each_run([&](const PageRange& run) {
      if (space->moved.empty()) return pages.set(run);
      for (Address at = run.start; at < run.end; at += kPageSize) {
        pages.set(page_at(source_of(*space, at)));
      }
    });
  }
  return pages;
}

}  // namespace godwit
