#include "page-server/page_reader.h"

#include <unistd.h>
#include <xxhash.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

namespace godwit {
namespace {

bool is_zero_page(const std::byte* page) {
  // Most pages differ from zero in their first bytes; the rest is compared with itself, shifted.
  static constexpr std::array<std::byte, 64> kZeros{};
  if (std::memcmp(page, kZeros.data(), kZeros.size()) != 0) return false;
  return std::memcmp(page, page + kZeros.size(), kPageSize - kZeros.size()) == 0;
}

[[noreturn]] void throw_gone() {
  throw Error("the address space of the task is gone (exec or exit)", ESRCH);
}

}  // namespace

void require_alive(int memory_fd, Address somewhere) {
  std::byte byte{};
  if (pread(memory_fd, &byte, 1, static_cast<off_t>(somewhere)) == 0) throw_gone();
}

PageReader::PageReader(int memory_fd, FrameSink& sink, PageBitmap& sent, std::uint32_t space,
                       std::uint32_t round, std::uint64_t generation, bool final)
    : memory_fd_(memory_fd),
      sink_(sink),
      sent_(sent),
      space_(space),
      round_(round),
      generation_(generation),
      final_(final) {}

PageFrame& PageReader::frame() {
  if (frame_ != nullptr && !frame_->has_room()) flush();
  if (frame_ == nullptr) {
    frame_ = sink_.take_free();
    frame_->begin(type_, space_, round_, generation_);
  }
  return *frame_;
}

void PageReader::flush() {
  if (frame_ == nullptr) return;
  frame_->seal();
  statistics_.bytes += frame_->wire_bytes();
  sink_.push(std::move(frame_));
}

std::uint64_t PageReader::read_pages(Address from, std::span<std::byte> to) const {
  while (true) {
    const ssize_t got = pread(memory_fd_, to.data(), to.size(), static_cast<off_t>(from));
    if (got >= static_cast<ssize_t>(kPageSize)) {
      return static_cast<std::uint64_t>(got) / kPageSize * kPageSize;
    }
    if (got < 0 && errno == EINTR) continue;
    if (got == 0) throw_gone();
    if (got < 0 && errno != EIO && errno != EFAULT && errno != ENOMEM) {
      throw_system("read the task's memory at {:x}", from);
    }
    if (final_) {
      throw Error(fmt::format("the task's memory at {:x} cannot be read in the final round", from),
                  got < 0 ? errno : EIO);
    }
    return 0;
  }
}

void PageReader::add_data(PageRange range, AreaKind kind) {
  while (range.start < range.end) {
    // No more pages than there is room for runs: take() must not change frames half way.
    const std::span<std::byte> room = frame().data_room();
    const std::uint64_t bytes_max =
        std::min<std::uint64_t>(room.size(), frame_->run_room() * kPageSize);
    const std::span<std::byte> to = room.first(std::min(bytes_max, range.bytes()));
    const std::uint64_t got = read_pages(range.start, to);
    if (got == 0) {
      range.start += kPageSize;
      continue;
    }
    take(range.start, to.first(got), kind);
    range.start += got;
  }
}

PageReader::Fate PageReader::fate_of(Address page, const std::byte* content, AreaKind kind) {
  if (kind != AreaKind::kPrivateFile && is_zero_page(content)) return Fate::kZero;
  if (contents_ == nullptr || kind != AreaKind::kSharedAnonymous) return Fate::kData;
  const std::uint64_t checksum = XXH3_64bits(content, kPageSize);
  const bool same = contents_->exchange(page, checksum) == checksum;
  return same && sent_.contains(page) ? Fate::kLeftOut : Fate::kData;
}

// `data` lies at the beginning of the frame's data room; what is no data is taken out on the way.
void PageReader::take(Address start, std::span<std::byte> data, AreaKind kind) {
  const std::uint64_t pages = data.size() / kPageSize;
  const auto fate_at = [&](std::uint64_t page) {
    return fate_of(start + page * kPageSize, data.data() + page * kPageSize, kind);
  };
  Fate fate = fate_at(0);
  for (std::uint64_t first = 0; first < pages;) {
    std::uint64_t end = first + 1;
    Fate next = fate;
    while (end < pages && (next = fate_at(end)) == fate) ++end;
    const PageRange run{start + first * kPageSize, start + end * kPageSize};
    if (fate == Fate::kZero) {
      add_zero(run);
    } else if (fate == Fate::kData) {
      const std::span<std::byte> room = frame_->data_room();
      if (room.data() != data.data() + first * kPageSize) {
        std::memmove(room.data(), data.data() + first * kPageSize, run.bytes());
      }
      frame_->add_data(run.start, run.pages());
      sent_.set(run);
      statistics_.pages += run.pages();
    }
    first = end;
    fate = next;
  }
}

void PageReader::add_zero(const PageRange& range) {
  statistics_.zero_pages += range.pages();
  if (tells_zeros_) {
    frame().add_zero(range.start, range.pages());
    return;
  }
  // A page that was never sent is missing at the destination, and a missing page is a zero page.
  PageBitmap told;
  sent_.for_each_run(range, [&](const PageRange& run) { told.set(run); });
  told.for_each_run([&](const PageRange& run) {
    frame().add_zero(run.start, run.pages());
    sent_.clear(run);
  });
}

void PageReader::add_copy(Address page, const std::byte* content) {
  const std::span<std::byte> room = frame().data_room().first(kPageSize);
  std::memcpy(room.data(), content, kPageSize);
  take(page, room, AreaKind::kAnonymous);
}

void PageReader::finish() {
  flush();
  std::unique_ptr<PageFrame> last = sink_.take_free();
  last->begin(PageFrame::Type::kEndOfRound, space_, round_, generation_);
  last->seal();
  statistics_.bytes += last->wire_bytes();
  sink_.push(std::move(last));
}

bool is_readable(int memory_fd, Address page) {
  std::byte byte{};
  return ::pread(memory_fd, &byte, 1, static_cast<off_t>(page)) == 1;
}

}  // namespace godwit
