#include "common/tracking/tracker_probe.h"

#include <sys/mman.h>

#include <array>
#include <vector>

#include "common/base/scope_exit.h"
#include "common/kernel/pagemap.h"
#include "common/kernel/userfaultfd.h"
#include "common/tracking/write_protect_arm.h"

namespace godwit {
namespace {

constexpr std::uint64_t kTableBytes = 2 << 20;  // of memory that one page table describes

// Anonymous memory of the caller's own: one whole page table's worth, aligned to it, plus a page.
class ProbeMemory {
 public:
  ProbeMemory()
      : base_(mmap(nullptr, kBytes, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)) {
    if (base_ == MAP_FAILED) throw_system("mmap of probe memory");
    madvise(base_, kBytes, MADV_NOHUGEPAGE);
    const auto address = reinterpret_cast<Address>(base_);
    start_ = (address + kTableBytes - 1) / kTableBytes * kTableBytes;
  }
  ProbeMemory(const ProbeMemory&) = delete;
  ProbeMemory& operator=(const ProbeMemory&) = delete;
  ~ProbeMemory() { munmap(base_, kBytes); }

  PageRange range() const { return {start_, start_ + kTableBytes}; }
  void write(std::uint64_t page) const {
    *reinterpret_cast<volatile char*>(start_ + page * kPageSize) = 1;
  }
  void give_back(std::uint64_t page, std::uint64_t pages) const {
    madvise(reinterpret_cast<void*>(start_ + page * kPageSize), pages * kPageSize, MADV_DONTNEED);
  }

 private:
  static constexpr std::uint64_t kBytes = 2 * kTableBytes;
  void* base_;
  Address start_ = 0;
};

std::uint64_t count_written(int pagemap_fd, const PageRange& range, std::uint64_t any,
                            bool protect) {
  std::array<pagemap::Region, 64> buffer{};
  std::uint64_t pages = 0;
  pagemap::Query query;
  query.all = pagemap::kWritten;
  query.any = any;
  query.reported = pagemap::kWritten | pagemap::kPresent;
  query.protect = protect;
  pagemap::scan(pagemap_fd, range, query, buffer, [&](const pagemap::Region& region) {
    pages += (region.end - region.start) / kPageSize;
  });
  return pages;
}

// Arms `memory` after its pages 0..7 were written. Invalid when the kernel cannot.
UniqueFd arm(const ProbeMemory& memory, int pagemap_fd) {
  if (!pagemap::has_scan(pagemap_fd, nullptr)) return {};
  UniqueFd uffd = make_userfaultfd();
  if (!try_userfaultfd_enable(uffd.get(), kUffdWriteProtectAsync | kUffdWriteProtectUnpopulated)) {
    return {};
  }
  const std::array ranges{memory.range()};
  if (!arm_write_protect(uffd.get(), ranges).empty()) return {};
  for (std::uint64_t page = 0; page < 8; ++page) memory.write(page);
  if (count_written(pagemap_fd, memory.range(), pagemap::kPresent, true) != 8) return {};
  return uffd;
}

}  // namespace

std::string_view tracker_name(TrackerKind kind) {
  return kind == TrackerKind::kWriteProtect ? "write-protect" : "soft-dirty";
}

std::optional<TrackerKind> tracker_by_name(std::string_view name) {
  for (const TrackerKind kind : {TrackerKind::kWriteProtect, TrackerKind::kSoftDirty}) {
    if (name == tracker_name(kind)) return kind;
  }
  return std::nullopt;
}

bool probe_write_protect() try {
  const ProbeMemory memory;
  const UniqueFd pagemap_fd = open_file("/proc/self/pagemap", O_RDWR);
  const UniqueFd uffd = arm(memory, pagemap_fd.get());
  if (!uffd.valid()) return false;
  if (count_written(pagemap_fd.get(), memory.range(), pagemap::kPresent, false) != 0) return false;
  memory.write(3);
  return count_written(pagemap_fd.get(), memory.range(), pagemap::kPresent, true) == 1;
} catch (const Error&) {
  return false;
}

bool probe_absent_is_written() try {
  const ProbeMemory memory;
  const UniqueFd pagemap_fd = open_file("/proc/self/pagemap", O_RDWR);
  const UniqueFd uffd = arm(memory, pagemap_fd.get());
  if (!uffd.valid()) return false;
  memory.give_back(2, 1);
  const std::uint64_t pages = memory.range().pages();
  if (count_written(pagemap_fd.get(), memory.range(), 0, false) != pages - 7) return false;
  memory.give_back(0, pages);
  return count_written(pagemap_fd.get(), memory.range(), 0, false) == pages;
} catch (const Error&) {
  return false;
}

// Reading makes the kernel show its zeros. Whoever has once seen those of a huge page keeps them at
// their place for as long as it lives.
ZeroFrames probe_zero_frames() try {
  const ProbeMemory memory;
  const UniqueFd pagemap_fd = open_file("/proc/self/pagemap", O_RDONLY);
  const Address start = memory.range().start;
  const auto read_word = [&] {
    static_cast<void>(*reinterpret_cast<const volatile char*>(start));
    std::array<pagemap::Word, 2> words{};
    pagemap::read_words(pagemap_fd.get(), start, words);
    return words;
  };
  ZeroFrames zeros;
  zeros.page = read_word()[0].place();
  memory.give_back(0, memory.range().pages());
  ::madvise(reinterpret_cast<void*>(start), kTableBytes, MADV_HUGEPAGE);
  const auto [first, second] = read_word();
  const bool huge = first.place() != 0 && second.place() == first.place() + 1;
  if (huge) zeros.huge = first.place();
  return zeros;
} catch (const Error&) {
  return {};
}

bool probe_soft_dirty() try {
  const ProbeMemory memory;
  const UniqueFd pagemap_fd = open_file("/proc/self/pagemap", O_RDONLY);
  memory.write(0);
  memory.write(1);
  write_file("/proc/self/clear_refs", "4");
  memory.write(1);
  std::array<pagemap::Word, 2> words{};
  pagemap::read_words(pagemap_fd.get(), memory.range().start, words);
  return words[0].present() && !words[0].soft_dirty() && words[1].soft_dirty();
} catch (const Error&) {
  return false;
}

bool probe_tracker(TrackerKind kind) {
  return kind == TrackerKind::kWriteProtect ? probe_write_protect() : probe_soft_dirty();
}

std::optional<TrackerKind> probe_tracker() {
  if (probe_write_protect()) return TrackerKind::kWriteProtect;
  if (probe_soft_dirty()) return TrackerKind::kSoftDirty;
  return std::nullopt;
}

}  // namespace godwit
