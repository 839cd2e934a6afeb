#include "source-agent/capture/huge_pages.h"

#include <array>

#include "common/kernel/huge_pages.h"
#include "common/kernel/pagemap.h"

namespace godwit {

std::vector<PageRange> find_huge_pages(int pagemap_fd, const proto::Mappings& mappings) {
  std::vector<PageRange> found;
  const std::uint64_t bytes = huge_page_bytes();
  if (bytes == 0 || !pagemap::has_scan(pagemap_fd, nullptr)) return found;
  const pagemap::Query query{.all = pagemap::kHuge, .reported = pagemap::kHuge};
  std::array<pagemap::Region, 256> buffer;
  for (const proto::Mapping& area : mappings.areas()) {
    if (area.shared() || area.backing() != proto::BACKING_ANONYMOUS) continue;
    if (area.end() - area.start() < bytes) continue;
    pagemap::scan(pagemap_fd, {area.start(), area.end()}, query, buffer,
                  [&](const pagemap::Region& region) {
                    if (!found.empty() && found.back().end == region.start) {
                      found.back().end = region.end;
                    } else {
                      found.push_back({region.start, region.end});
                    }
                  });
  }
  return found;
}

void describe_huge_pages(int pagemap_fd, const proto::Mappings& mappings, proto::Process& out) {
  for (const PageRange& range : find_huge_pages(pagemap_fd, mappings)) {
    proto::HugePages& pages = *out.add_huge_pages();
    pages.set_start(range.start);
    pages.set_end(range.end);
  }
}

}  // namespace godwit
