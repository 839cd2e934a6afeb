#include "common/kernel/proc_maps.h"

#include <sys/mman.h>
#include <sys/sysmacros.h>
#include <xxhash.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <memory>

#include "common/base/error.h"
#include "common/base/unique_fd.h"

namespace godwit {
namespace {

// Takes a number up to `stop`, which is consumed.
template <typename Number>
bool take_number(std::string_view& text, int base, char stop, Number& number) {
  const auto result = std::from_chars(text.data(), text.data() + text.size(), number, base);
  if (result.ec != std::errc() || result.ptr == text.data() + text.size() || *result.ptr != stop) {
    return false;
  }
  text.remove_prefix(static_cast<size_t>(result.ptr - text.data()) + 1);
  return true;
}

template <typename Body>
void for_each_line(std::string_view text, Body body) {
  while (!text.empty()) {
    const size_t end = text.find('\n');
    body(text.substr(0, end));
    if (end == std::string_view::npos) return;
    text.remove_prefix(end + 1);
  }
}

// Hands the file over in pieces, until `take` says false.
template <typename Take>
void read_pieces(const std::string& path, Take take) {
  const UniqueFd file = open_file(path, O_RDONLY);
  std::array<char, 16 * 1024> piece;  // procfs gives 4 KiB at once
  for (;;) {
    const ssize_t got = ::read(file.get(), piece.data(), piece.size());
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) throw_system("read {}", path);
    if (got == 0 || !take(std::string_view(piece.data(), static_cast<size_t>(got)))) return;
  }
}

}  // namespace

std::optional<MapsLine> parse_maps_line(std::string_view line) {
  MapsLine out;
  unsigned device_major = 0;
  unsigned device_minor = 0;
  Address start = 0;
  Address end = 0;
  if (!take_number(line, 16, '-', start) || !take_number(line, 16, ' ', end)) return std::nullopt;
  const auto range = PageRange::make(start, end);
  if (!range || line.size() < 5 || line[4] != ' ') return std::nullopt;
  out.range = *range;
  if (line[0] == 'r') out.protection |= PROT_READ;
  if (line[1] == 'w') out.protection |= PROT_WRITE;
  if (line[2] == 'x') out.protection |= PROT_EXEC;
  out.shared = line[3] == 's';
  line.remove_prefix(5);
  if (!take_number(line, 16, ' ', out.offset) || !take_number(line, 16, ':', device_major) ||
      !take_number(line, 16, ' ', device_minor)) {
    return std::nullopt;
  }
  out.device = makedev(device_major, device_minor);
  const size_t name = std::min(line.find(' '), line.size());
  if (std::from_chars(line.data(), line.data() + name, out.inode).ec != std::errc()) {
    return std::nullopt;
  }
  const size_t path = line.find_first_not_of(' ', name);
  if (path != std::string_view::npos) out.path = line.substr(path);
  return out;
}

void visit_maps(std::string_view text, std::string_view source,
                const std::function<void(MapsLine&)>& visit) {
  Address told = 0;  // up to where
  for_each_line(text, [&](std::string_view line) {
    if (line.empty()) return;
    auto parsed = parse_maps_line(line);
    if (!parsed) fail("{}: line not understood: {}", source, line);
    PageRange& range = parsed->range;
    if (range.end <= told) return;
    if (range.start < told) {
      if (parsed->inode != 0) parsed->offset += told - range.start;
      range.start = told;
    }
    told = range.end;
    visit(*parsed);
  });
}

std::vector<MapsLine> parse_maps(std::string_view text, std::string_view source) {
  std::vector<MapsLine> lines;
  visit_maps(text, source, [&](MapsLine& line) { lines.push_back(std::move(line)); });
  return lines;
}

bool has_maps_text(pid_t pid, std::string_view expected) {
  bool same = true;
  read_pieces(fmt::format("/proc/{}/maps", pid), [&](std::string_view piece) {
    same = expected.starts_with(piece);
    if (same) expected.remove_prefix(piece.size());
    return same;
  });
  return same && expected.empty();
}

std::vector<MapsLine> read_maps(pid_t pid) {
  const std::string path = fmt::format("/proc/{}/maps", pid);
  return parse_maps(read_file(path), path);
}

bool AreaVmFlags::has(std::string_view two_letters) const {
  for (size_t at = 0; at + 2 <= flags.size(); at += 3) {
    if (std::string_view(flags).substr(at, 2) == two_letters) return true;
  }
  return false;
}

void visit_vm_flags(pid_t pid, const std::function<void(const AreaVmFlags&)>& visit) {
  AreaVmFlags area;
  const auto take = [&](std::string_view line) {
    if (line.starts_with("VmFlags: ")) {
      area.flags = line.substr(9);
      visit(area);
    } else if (auto parsed = parse_maps_line(line)) {
      area.range = parsed->range;
      area.path = std::move(parsed->path);
    }
  };
  std::string rest;  // of a line that goes on in the next piece
  read_pieces(fmt::format("/proc/{}/smaps", pid), [&](std::string_view piece) {
    const size_t whole = piece.rfind('\n') + 1;
    if (whole != 0) {
      const size_t first = rest.empty() ? 0 : piece.find('\n') + 1;
      if (first != 0) take(rest.append(piece.substr(0, first - 1)));
      for_each_line(piece.substr(first, whole - first), take);
      rest.clear();
    }
    rest += piece.substr(whole);
    return true;
  });
}

std::vector<AreaVmFlags> read_vm_flags(pid_t pid) {
  std::vector<AreaVmFlags> areas;
  visit_vm_flags(pid, [&](const AreaVmFlags& area) { areas.push_back(area); });
  return areas;
}

std::uint64_t hash_file(const std::string& path) {
  const UniqueFd file = open_file(path, O_RDONLY);
  const std::unique_ptr<XXH3_state_t, decltype(&XXH3_freeState)> state(XXH3_createState(),
                                                                       &XXH3_freeState);
  if (!state) fail("hashing {}: out of memory", path);
  XXH3_64bits_reset(state.get());
  const auto chunk = std::make_unique<std::array<char, 256 * 1024>>();
  for (;;) {
    const ssize_t got = ::read(file.get(), chunk->data(), chunk->size());
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) throw_system("read {}", path);
    if (got == 0) return XXH3_64bits_digest(state.get());
    XXH3_64bits_update(state.get(), chunk->data(), static_cast<size_t>(got));
  }
}

PageRange find_hole(const std::vector<std::vector<PageRange>>& taken, std::uint64_t bytes) {
  std::vector<PageRange> all;
  for (const auto& list : taken) all.insert(all.end(), list.begin(), list.end());
  std::sort(all.begin(), all.end(),
            [](const PageRange& a, const PageRange& b) { return a.end > b.end; });
  const std::uint64_t need = bytes + 2 * kPageSize;
  Address top = 0x7000'0000'0000;  // below where the kernel puts stacks and libraries
  constexpr Address kBottom = 0x1'0000'0000;
  for (const PageRange& range : all) {
    if (range.start >= top) continue;
    if (range.end <= top && top - range.end >= need) break;
    top = std::min(top, range.start);
  }
  if (top < kBottom + need) fail("no hole of {} bytes in the address space", bytes);
  return PageRange{top - kPageSize - bytes, top - kPageSize};
}

}  // namespace godwit
