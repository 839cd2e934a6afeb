#include "common/remote/code_site.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>

#include "arch/arch.h"
#include "common/base/error.h"

namespace godwit {
namespace {

constexpr std::uint64_t kAlignment = 16;
// The last bytes of an image may well be zeros that mean something.
constexpr std::uint64_t kGapBytes = 64;

std::uint64_t align_up(std::uint64_t value) { return (value + kAlignment - 1) & ~(kAlignment - 1); }

std::uint64_t record_offset() { return align_up(arch::stub_bytes()); }

// With one save area.
std::uint64_t least_bytes() { return align_up(record_offset() + sizeof(SiteRecord)); }

std::uint64_t save_area_bytes() { return align_up(arch::stub_bytes() - arch::stub_save_offset()); }

std::span<const std::byte> marker() { return arch::stub_code().first(arch::kStubMarkerBytes); }

bool is_vdso(const MapsLine& line) { return line.path == "[vdso]"; }

bool is_private_text(const MapsLine& line) {
  return !line.shared && line.inode != 0 && (line.protection & PROT_EXEC) != 0 &&
         (line.protection & (PROT_READ | PROT_WRITE)) == PROT_READ;
}

bool is_home(const MapsLine& line) {
  return !line.shared && line.inode == 0 && line.protection == (PROT_READ | PROT_EXEC);
}

std::vector<std::byte> read_page(const TaskMemory& memory, Address page) {
  std::vector<std::byte> content(kPageSize);
  if (!memory.try_read(page, content)) content.clear();
  return content;
}

void find_sites_in_page(const TaskMemory& memory, Address page, std::vector<FoundSite>& sites) {
  const std::vector<std::byte> content = read_page(memory, page);
  for (auto from = content.begin();;) {
    from = std::search(from, content.end(), marker().begin(), marker().end());
    const auto offset = static_cast<std::uint64_t>(from - content.begin());
    if (from == content.end() || offset + least_bytes() > kPageSize) return;
    SiteRecord record;
    std::memcpy(&record, content.data() + offset + record_offset(), sizeof record);
    sites.push_back({page + offset, record});
    from += static_cast<std::ptrdiff_t>(least_bytes());
  }
}

}  // namespace

std::size_t save_areas(Address code) {
  const std::uint64_t room = kPageSize - code % kPageSize - least_bytes();
  return std::min<std::uint64_t>(arch::stub_save_areas_max(), 1 + room / save_area_bytes());
}

Address save_area(Address code, std::size_t index) {
  if (index == 0) return code + arch::stub_save_offset();
  return code + least_bytes() + (index - 1) * save_area_bytes();
}

std::uint64_t site_bytes(Address code) {
  return least_bytes() + (save_areas(code) - 1) * save_area_bytes();
}

std::vector<FoundSite> find_written_sites(const TaskMemory& memory,
                                          const std::vector<MapsLine>& maps) {
  std::vector<FoundSite> sites;
  for (const MapsLine& line : maps) {
    if (is_vdso(line) || is_private_text(line)) {
      find_sites_in_page(memory, line.range.end - kPageSize, sites);
    } else if (is_home(line)) {
      find_sites_in_page(memory, line.range.start, sites);
    }
  }
  return sites;
}

std::optional<Address> find_room_in(const TaskMemory& memory, const PageRange& range) {
  const Address page = range.end - kPageSize;
  const std::vector<std::byte> content = read_page(memory, page);
  const auto last = std::find_if(content.rbegin(), content.rend(),
                                 [](std::byte value) { return value != std::byte{0}; });
  // A page of zeros has no image that ends in it: it may be data.
  if (last == content.rend()) return std::nullopt;
  const auto used = static_cast<std::uint64_t>(content.rend() - last);
  const std::uint64_t start = align_up(used + kGapBytes);
  if (start + least_bytes() > kPageSize) return std::nullopt;
  return page + start;
}

Address find_room_for_site(const TaskMemory& memory, const std::vector<MapsLine>& maps) {
  for (const bool vdso : {true, false}) {
    for (const MapsLine& line : maps) {
      if (vdso ? !is_vdso(line) : !is_private_text(line)) continue;
      if (const auto room = find_room_in(memory, line.range)) return *room;
    }
  }
  throw Error(fmt::format("no executable page of the process has {} unused bytes at its end",
                          least_bytes()),
              0, "a process without a vDSO (vdso=0) cannot be moved");
}

void write_site(const TaskMemory& memory, Address code, const SiteRecord& record) {
  std::vector<std::byte> content(site_bytes(code));
  std::ranges::copy(arch::stub_code(), content.begin());
  std::memcpy(content.data() + record_offset(), &record, sizeof record);
  memory.write(code, content);
}

void write_site_record(const TaskMemory& memory, Address code, const SiteRecord& record) {
  memory.write(code + record_offset(), std::as_bytes(std::span(&record, 1)));
}

void erase_site(const TaskMemory& memory, Address code) {
  memory.write(code, std::vector<std::byte>(site_bytes(code)));
}

bool site_is_intact(const TaskMemory& memory, Address code) {
  std::vector<std::byte> found(arch::kStubMarkerBytes);
  return memory.try_read(code, found) && std::ranges::equal(found, marker());
}

}  // namespace godwit
