#include "source-agent/shared_objects.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>

#include "common/base/clock.h"
#include "common/base/error.h"
#include "common/base/unique_fd.h"

namespace godwit {
namespace {

// Two ticks of the slowest kernel.
constexpr std::int64_t kCoarseNs = 20'000'000;

void add_existing(int object, const proto::Mapping& area, std::vector<PageRange>& existing) {
  const off_t end = static_cast<off_t>(area.offset() + (area.end() - area.start()));
  const Address base = area.start() - area.offset();
  off_t at = static_cast<off_t>(area.offset());
  while (at < end) {
    const off_t data = ::lseek(object, at, SEEK_DATA);
    if (data < 0 || data >= end) break;
    const off_t hole = std::min<off_t>(::lseek(object, data, SEEK_HOLE), end);
    if (hole <= data) break;
    existing.push_back({base + static_cast<Address>(data), base + static_cast<Address>(hole)});
    at = hole;
  }
}

}  // namespace

SharedPages SharedObjects::look(const proto::Mappings& mappings) {
  SharedPages pages;
  std::map<std::uint64_t, Seen> seen;
  for (const proto::Mapping& area : mappings.areas()) {
    if (area.backing() != proto::BACKING_SHARED_ANONYMOUS) continue;
    const std::string link =
        fmt::format("/proc/{}/map_files/{:x}-{:x}", host_pid_, area.start(), area.end());
    // O_RDONLY: opening does not touch the object, SEEK_DATA does not either.
    const UniqueFd object = try_open_file(link, O_RDONLY);
    struct stat about {};
    // Else the area changed: the next description has it.
    if (!object.valid() || ::fstat(object.get(), &about) != 0) continue;
    const Seen now{about.st_mtim.tv_sec * 1'000'000'000LL + about.st_mtim.tv_nsec,
                   clock_ns(CLOCK_REALTIME)};
    const auto before = seen_.find(area.shared_object());
    const bool small = static_cast<std::uint64_t>(about.st_size) <= kSmallBytes;
    if (small && before != seen_.end() &&
        (before->second.modified_ns != now.modified_ns ||
         now.modified_ns + kCoarseNs > before->second.looked_ns)) {
      pages.distrusted.push_back({area.start(), area.end()});
    }
    pages.looked_at.push_back({area.start(), area.end()});
    seen.emplace(area.shared_object(), now);
    add_existing(object.get(), area, pages.existing);
  }
  seen_.swap(seen);
  return pages;
}

}  // namespace godwit
