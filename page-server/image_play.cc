#include "page-server/image_play.h"

#include <sched.h>
#include <time.h>

#include <algorithm>
#include <exception>
#include <mutex>
#include <thread>
#include <tuple>

#include "common/base/clock.h"
#include "common/base/error.h"

namespace godwit {
namespace {

// A thread takes so much at a time.
constexpr std::uint64_t kTurnPages = 4 * kBlockPagesMax;
constexpr unsigned kThreadsMax = 4;
// The end of `pages` has what was written last before the process was saved.
constexpr std::uint64_t kHotPages = 4096;

unsigned processors() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof(set), &set) != 0) return 1;
  return static_cast<unsigned>(CPU_COUNT(&set));
}

bool same_block(const StoredPages& a, const StoredPages& b) {
  return std::tie(a.level, a.block) == std::tie(b.level, b.block);
}

void pause(std::int64_t ns) {
  if (ns <= 0) return;
  const timespec time{ns / 1'000'000'000, ns % 1'000'000'000};
  ::clock_nanosleep(CLOCK_MONOTONIC, 0, &time, nullptr);
}

// In the order of the disk, but those of the image itself that were written last come first.
void put_hot_first(std::vector<StoredPages>& pages) {
  std::uint64_t hot = 0;
  auto own_end = std::find_if(pages.begin(), pages.end(),
                              [](const StoredPages& each) { return each.level > 0; });
  auto first = own_end;
  while (first != pages.begin() && hot < kHotPages) hot += (--first)->range.pages();
  std::rotate(pages.begin(), first, own_end);
}

}  // namespace

ImagePlay::ImagePlay(std::vector<ImageLevel> levels, const proto::PlayImage& order)
    : image_(std::move(levels)), lazy_(order.lazy()), limit_(order.bandwidth_bytes_per_s_max()) {
  for (const proto::PageSpan& span : order.eager()) {
    const auto range = PageRange::make(span.start(), span.end());
    if (!range) fail("range {:x}-{:x} is not whole pages", span.start(), span.end());
    eager_.set(*range);
  }
}

std::vector<std::uint32_t> ImagePlay::spaces() const {
  std::vector<std::uint32_t> spaces = image_.spaces();
  if (spaces.empty()) spaces.push_back(0);
  return spaces;
}

std::vector<ImagePlay::Turn> ImagePlay::turns_of(std::span<const StoredPages> pages) {
  std::vector<Turn> turns;
  while (!pages.empty()) {
    std::size_t count = 1;
    std::uint64_t taken = pages.front().range.pages();
    while (count < pages.size() &&
           (taken < kTurnPages || same_block(pages[count - 1], pages[count]))) {
      taken += pages[count++].range.pages();
    }
    turns.push_back(pages.first(count));
    pages = pages.subspan(count);
  }
  return turns;
}

void ImagePlay::place_turn(ImagePages& image, Turn turn, const PagePlacer& placer) const {
  for (const StoredPages& each : turn) {
    placer.place_once(each.range, each.zero ? nullptr : image.read(each));
  }
}

// Zeros are there already in anonymous memory, and elsewhere they are wanted at once.
void ImagePlay::split(const StoredPages& pages, PageBitmap& missing) {
  for (Address at = pages.range.start; at < pages.range.end;) {
    bool eager = false;
    const PageRange part{at, at + eager_.uniform_bytes({at, pages.range.end}, &eager)};
    if (eager) {
      StoredPages& piece = now_.emplace_back(pages);
      piece.range = part;
      if (!piece.zero) {
        piece.first += static_cast<std::uint32_t>((part.start - pages.range.start) / kPageSize);
      }
    } else if (!pages.zero) {
      missing.set(part);
    }
    at = part.end;
  }
}

void ImagePlay::prepare(std::uint32_t space, PageBitmap& missing) {
  now_.clear();
  if (!lazy_) {
    now_ = image_.pages_in_disk_order(space);
    return;
  }
  for (const StoredPages& each : image_.pages_of(space)) split(each, missing);
}

ImagePlay::Placed ImagePlay::place(const PagePlacer& placer) {
  const std::vector<Turn> turns = turns_of(now_);
  std::mutex mutex;
  std::size_t next = 0;
  std::exception_ptr failed;
  const auto work = [&] {
    ImagePages image = image_.another_reader();
    for (;;) {
      Turn turn;
      {
        const std::lock_guard lock(mutex);
        if (next == turns.size() || failed) return;
        turn = turns[next++];
      }
      try {
        place_turn(image, turn, placer);
      } catch (...) {
        const std::lock_guard lock(mutex);
        if (!failed) failed = std::current_exception();
      }
    }
  };
  std::vector<std::thread> helpers;
  const std::size_t threads = std::min<std::size_t>({turns.size(), processors(), kThreadsMax});
  while (helpers.size() + 1 < threads) helpers.emplace_back(work);
  work();
  for (std::thread& helper : helpers) helper.join();
  if (failed) std::rethrow_exception(failed);
  Placed placed;
  for (const StoredPages& each : now_) {
    (each.zero ? placed.zero_pages : placed.pages) += each.range.pages();
  }
  placed.bytes = placed.pages * kPageSize;
  return placed;
}

void ImagePlay::place_rest(std::uint32_t space, FaultService& faults) {
  std::vector<StoredPages> pages = image_.pages_in_disk_order(space);
  std::erase_if(pages, [](const StoredPages& each) { return each.zero; });
  put_hot_first(pages);
  for (const StoredPages& each : pages) {
    if (!faults.misses(space, each.range)) continue;
    pause(limit_.delay_ns(each.range.bytes(), monotonic_ns()));
    faults.await_background_turn();
    const std::byte* data = nullptr;
    try {
      data = image_.read(each);
    } catch (const Error& error) {
      faults.lose(space, each.range, error);
      continue;
    }
    faults.place(space, each.range, data);
  }
}

}  // namespace godwit
