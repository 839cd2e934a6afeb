#include "dest-agent/restore/vdso.h"

#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>

#include "common/base/error.h"
#include "common/base/log.h"
#include "common/kernel/proc_maps.h"
#include "common/model/host_features.h"
#include "common/model/vdso_image.h"

namespace godwit {
namespace {

std::vector<MapsLine> parts_of(pid_t pid) {
  std::vector<MapsLine> parts;
  for (const MapsLine& line : read_maps(pid)) {
    if (is_vdso_part(line.path)) parts.push_back(line);
  }
  if (parts.empty()) fail("process {} has no vDSO", pid);
  return parts;
}

std::vector<PageRange> ranges_of(const proto::Mappings& mappings) {
  std::vector<PageRange> ranges;
  for (const proto::Mapping& area : mappings.areas()) ranges.push_back({area.start(), area.end()});
  return ranges;
}

PageRange find_place(const RemoteTask& task, const proto::Mappings& want, std::uint64_t bytes) {
  std::vector<PageRange> here;
  for (const MapsLine& line : read_maps(task.host_pid())) here.push_back(line.range);
  return find_hole({here, ranges_of(want)}, bytes);
}

void move_part(SyscallBatch& batch, Address from, std::uint64_t bytes, Address to,
               const std::string& name) {
  batch.add(SYS_mremap, {from, bytes, bytes, MREMAP_MAYMOVE | MREMAP_FIXED, to}, name);
}

// To where the source's were. In two steps through a free place, since mremap refuses ranges that
// overlap.
VdsoPlace place_as_described(RemoteTask& task, const proto::Mappings& want,
                             const std::vector<MapsLine>& own) {
  std::vector<const proto::Mapping*> places;
  for (const proto::Mapping& area : want.areas()) {
    if (area.backing() == proto::BACKING_VDSO || area.backing() == proto::BACKING_VVAR) {
      places.push_back(&area);
    }
  }
  std::uint64_t total = 0;
  for (const MapsLine& line : own) total += line.range.bytes();
  const PageRange between = find_place(task, want, total);
  SyscallBatch batch;
  Address at = between.start;
  for (const MapsLine& line : own) {
    move_part(batch, line.range.start, line.range.bytes(), at, line.path);
    at += line.range.bytes();
  }
  at = between.start;
  VdsoPlace done;
  for (const MapsLine& line : own) {
    const auto place = std::find_if(places.begin(), places.end(), [&](const proto::Mapping* area) {
      return area->name() == line.path && area->end() - area->start() == line.range.bytes();
    });
    if (place == places.end() || own.size() != places.size()) {
      throw Error(fmt::format("{} of this kernel has no counterpart in the source's address space",
                              line.path))
          .with_hint("move between hosts whose kernels have the same vDSO layout");
    }
    move_part(batch, at, line.range.bytes(), (*place)->start(), line.path);
    at += line.range.bytes();
    if (line.path == "[vdso]") done.code = {(*place)->start(), (*place)->end()};
  }
  task.run(batch);
  return done;
}

// The code finds its data relative to itself: the parts keep their distances.
VdsoPlace place_elsewhere(RemoteTask& task, const proto::Mappings& want,
                          const std::vector<MapsLine>& own) {
  const Address first = own.front().range.start;
  const std::uint64_t bytes = own.back().range.end - first;
  VdsoPlace done;
  done.block = find_place(task, want, bytes);
  SyscallBatch batch;
  for (const MapsLine& line : own) {
    const Address to = done.block.start + (line.range.start - first);
    move_part(batch, line.range.start, line.range.bytes(), to, line.path);
    if (line.path == "[vdso]") done.code = {to, to + line.range.bytes()};
  }
  task.run(batch);
  return done;
}

}  // namespace

bool is_vdso_part(std::string_view path) { return path == "[vdso]" || path.starts_with("[vvar"); }

VdsoPlace place_vdso(RemoteTask& task, const proto::Mappings& want,
                     std::span<const std::byte> source_image) {
  const std::vector<MapsLine> own = parts_of(task.host_pid());
  const std::string here = read_host_features().vdso_image();
  if (source_image.empty() || hash_vdso(source_image) == hash_vdso(bytes_of(here))) {
    return place_as_described(task, want, own);
  }
  VdsoPlace done = place_elsewhere(task, want, own);
  for (const proto::Mapping& area : want.areas()) {
    if (area.backing() != proto::BACKING_VDSO) continue;
    if (area.end() - area.start() != source_image.size()) {
      fail("the vDSO of the source has {} bytes, {} are mapped", source_image.size(),
           area.end() - area.start());
    }
    done.stand_in = PageRange{area.start(), area.end()};
  }
  if (!done.stand_in) fail("the description has no vDSO");
  SyscallBatch batch;
  batch.add(SYS_mmap,
            {done.stand_in->start, done.stand_in->bytes(), PROT_READ | PROT_EXEC,
             MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0},
            "what stands in for the source's vDSO");
  task.run(batch);
  task.write_memory(done.stand_in->start,
                    stand_in_for(source_image, bytes_of(here), done.code.start));
  log_debug("vdso code={:x} stand_in={:x}", done.code.start, done.stand_in->start);
  return done;
}

}  // namespace godwit
