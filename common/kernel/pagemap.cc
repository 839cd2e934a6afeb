#include "common/kernel/pagemap.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>

#include "common/base/error.h"

namespace godwit::pagemap {
namespace {

// struct pm_scan_arg of linux/fs.h.
struct ScanArgument {
  std::uint64_t size;
  std::uint64_t flags;
  std::uint64_t start;
  std::uint64_t end;
  std::uint64_t walk_end;
  std::uint64_t vec;
  std::uint64_t vec_len;
  std::uint64_t max_pages;
  std::uint64_t category_inverted;
  std::uint64_t category_mask;
  std::uint64_t category_anyof_mask;
  std::uint64_t return_mask;
};
static_assert(sizeof(ScanArgument) == 96);

static_assert(kScanRequest == _IOWR('f', 16, ScanArgument));
constexpr std::uint64_t kProtectMatching = 1 << 0;  // PM_SCAN_WP_MATCHING

}  // namespace

void scan(int pagemap_fd, const PageRange& range, const Query& query, std::span<Region> buffer,
          const RegionSink& sink) {
  Address at = range.start;
  while (at < range.end) {
    ScanArgument argument{};
    argument.size = sizeof(argument);
    argument.flags = query.protect ? kProtectMatching : 0;
    argument.start = at;
    argument.end = range.end;
    argument.vec = reinterpret_cast<std::uint64_t>(buffer.data());
    argument.vec_len = buffer.size();
    argument.category_inverted = query.inverted;
    argument.category_mask = query.all;
    argument.category_anyof_mask = query.any;
    argument.return_mask = query.reported;
    const int found = ioctl(pagemap_fd, kScanRequest, &argument);
    if (found < 0) {
      if (errno == EINTR) continue;
      throw_system("PAGEMAP_SCAN of {:x}-{:x}", at, range.end);
    }
    for (const Region& region : buffer.first(static_cast<std::size_t>(found))) sink(region);
    if (argument.walk_end <= at) fail("PAGEMAP_SCAN at {:x} does not get on", at);
    at = argument.walk_end;
  }
}

bool has_scan(int pagemap_fd, bool* guards) {
  // An empty range: the kernel checks the arguments and walks nothing.
  std::array<Region, 1> none{};
  const auto accepts = [&](std::uint64_t mask) {
    ScanArgument argument{};
    argument.size = sizeof(argument);
    argument.start = argument.end = kPageSize;
    argument.vec = reinterpret_cast<std::uint64_t>(none.data());
    argument.vec_len = none.size();
    argument.return_mask = mask;
    return ioctl(pagemap_fd, kScanRequest, &argument) >= 0;
  };
  const bool known = accepts(kWritten);
  if (guards != nullptr) *guards = known && accepts(kGuard);
  return known;
}

void read_words(int pagemap_fd, Address start, std::span<Word> words) {
  static_assert(sizeof(Word) == 8);
  const std::span<std::byte> bytes = std::as_writable_bytes(words);
  const Address offset = start / kPageSize * sizeof(Word);
  std::size_t done = 0;
  while (done < bytes.size()) {
    const ssize_t got = pread(pagemap_fd, bytes.data() + done, bytes.size() - done,
                              static_cast<off_t>(offset + done));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) throw_system("read pagemap at {:x}", start);
    if (got == 0) break;
    done += static_cast<std::size_t>(got);
  }
  std::fill(bytes.begin() + static_cast<std::ptrdiff_t>(done), bytes.end(), std::byte{0});
}

}  // namespace godwit::pagemap
