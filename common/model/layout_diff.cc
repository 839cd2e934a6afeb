#include "common/model/layout_diff.h"

#include <algorithm>
#include <span>

#include "common/base/error.h"

namespace godwit {
namespace {

bool is_special(const proto::Mapping& area) {
  return area.backing() == proto::BACKING_VDSO || area.backing() == proto::BACKING_VVAR;
}

const std::string& path_of(const proto::Mappings& all, const proto::Mapping& area) {
  return all.files(static_cast<int>(area.file())).path();
}

// Flags that only mmap can set.
constexpr std::uint64_t kFixedFlags = proto::AREA_GROWS_DOWN | proto::AREA_NO_RESERVE;

bool same_backing(const proto::Mappings& have, const proto::Mapping& a, const proto::Mappings& want,
                  const proto::Mapping& b, Address at) {
  if (a.backing() != b.backing() || a.shared() != b.shared()) return false;
  if ((a.flags() & kFixedFlags) != (b.flags() & kFixedFlags)) return false;
  switch (a.backing()) {
    case proto::BACKING_FILE:
      return path_of(have, a) == path_of(want, b) && offset_at(a, at) == offset_at(b, at);
    case proto::BACKING_SHARED_ANONYMOUS:
      return a.shared_object() == b.shared_object() && offset_at(a, at) == offset_at(b, at);
    default:
      return true;
  }
}

bool same_attributes(const proto::Mapping& a, const proto::Mapping& b) {
  return a.protection() == b.protection() && a.flags() == b.flags() && a.name() == b.name();
}

// Walks the areas of one side in step with the boundaries of both.
class Cursor {
 public:
  explicit Cursor(const proto::Mappings& mappings) : mappings_(mappings) { skip_special(); }

  const proto::Mapping* area() const {
    return index_ < mappings_.areas_size() ? &mappings_.areas(index_) : nullptr;
  }
  // The area that covers `at`, if any.
  const proto::Mapping* covering(Address at) const {
    const proto::Mapping* here = area();
    return here != nullptr && here->start() <= at ? here : nullptr;
  }
  // The next boundary behind `at`.
  Address boundary(Address at) const {
    const proto::Mapping* here = area();
    if (here == nullptr) return UINT64_MAX;
    return here->start() > at ? here->start() : here->end();
  }
  void pass(Address at) {
    while (area() != nullptr && area()->end() <= at) {
      ++index_;
      skip_special();
    }
  }

 private:
  void skip_special() {
    while (area() != nullptr && is_special(*area())) ++index_;
  }
  const proto::Mappings& mappings_;
  int index_ = 0;
};

}  // namespace

std::uint64_t offset_at(const proto::Mapping& area, Address address) {
  return area.offset() + (address - area.start());
}

namespace {

// A piece of one description, the other, or both.
struct Piece {
  LayoutSegment segment;
  bool kept = false;
};

std::vector<Piece> pieces_of(const proto::Mappings& have, const proto::Mappings& want) {
  std::vector<Piece> pieces;
  Cursor old_areas(have);
  Cursor new_areas(want);
  Address at = 0;
  while (old_areas.area() != nullptr || new_areas.area() != nullptr) {
    const Address end = std::min(old_areas.boundary(at), new_areas.boundary(at));
    const proto::Mapping* before = old_areas.covering(at);
    const proto::Mapping* after = new_areas.covering(at);
    if (before != nullptr || after != nullptr) {
      const bool kept =
          before != nullptr && after != nullptr && same_backing(have, *before, want, *after, at);
      pieces.push_back({{{at, end}, before, after}, kept});
    }
    at = end;
    old_areas.pass(at);
    new_areas.pass(at);
  }
  return pieces;
}

// Private memory that stood apart when its pages came may never become one mapping again, and
// mremap refuses a range of two. So of an area that was several, the largest is kept and the rest
// begins anew.
void keep_one_part(std::span<Piece> area) {
  const auto bytes = [](std::span<Piece> part) {
    return part.empty() ? 0 : part.back().segment.range.end - part.front().segment.range.start;
  };
  std::span<Piece> largest;
  for (std::size_t first = 0; first < area.size(); ++first) {
    if (!area[first].kept) continue;
    std::size_t end = first;
    const proto::Mapping* before = area[first].segment.have;
    while (end < area.size() && area[end].kept && area[end].segment.have == before) ++end;
    const std::span<Piece> part = area.subspan(first, end - first);
    if (bytes(part) > bytes(largest)) largest = part;
    first = end - 1;
  }
  for (Piece& piece : area) {
    piece.kept =
        piece.kept && !largest.empty() && &piece >= &largest.front() && &piece <= &largest.back();
  }
}

}  // namespace

LayoutDiff diff_layout(const proto::Mappings& have, const proto::Mappings& want) {
  std::vector<Piece> pieces = pieces_of(have, want);
  for (std::size_t first = 0; first < pieces.size();) {
    const proto::Mapping* area = pieces[first].segment.want;
    std::size_t end = first + 1;
    while (end < pieces.size() && pieces[end].segment.want == area) ++end;
    if (area != nullptr && area->backing() == proto::BACKING_ANONYMOUS) {
      keep_one_part(std::span(pieces).subspan(first, end - first));
    }
    first = end;
  }
  LayoutDiff diff;
  for (const auto& [segment, kept] : pieces) {
    if (kept) {
      if (!same_attributes(*segment.have, *segment.want)) diff.change.push_back(segment);
      continue;
    }
    if (segment.have != nullptr) diff.unmap.push_back(segment.range);
    if (segment.want != nullptr) diff.map.push_back({segment.range, nullptr, segment.want});
  }
  return diff;
}

proto::Mappings join_areas(const proto::Mappings& mappings) {
  proto::Mappings joined = mappings;
  joined.clear_areas();
  for (const proto::Mapping& area : mappings.areas()) {
    proto::Mapping* last =
        joined.areas_size() > 0 ? joined.mutable_areas(joined.areas_size() - 1) : nullptr;
    if (last != nullptr && last->end() == area.start() && !is_special(area) &&
        same_attributes(*last, area) &&
        last->file_opened_writable() == area.file_opened_writable() &&
        same_backing(mappings, *last, mappings, area, area.start())) {
      last->set_end(area.end());
    } else {
      *joined.add_areas() = area;
    }
  }
  return joined;
}

void check_mappings(const proto::Mappings& mappings) {
  Address last = 0;
  for (const proto::Mapping& area : mappings.areas()) {
    const auto range = PageRange::make(area.start(), area.end());
    if (!range || range->start < last) {
      fail("description: area {:x}-{:x} is empty, unaligned or out of order", area.start(),
           area.end());
    }
    if (range->end > 0x0100'0000'0000'0000) {
      fail("description: area {:x}-{:x} is outside of any address space", area.start(), area.end());
    }
    if (area.backing() == proto::BACKING_FILE &&
        area.file() >= static_cast<std::uint32_t>(mappings.files_size())) {
      fail("description: area {:x}-{:x} names file {} of {}", area.start(), area.end(), area.file(),
           mappings.files_size());
    }
    last = range->end;
  }
}

}  // namespace godwit
