#include "dest-agent/restore/mappings.h"

#include <linux/prctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "common/base/error.h"
#include "common/base/log.h"
#include "common/kernel/proc_maps.h"
#include "common/kernel/userfaultfd.h"
#include "common/model/page_areas.h"

namespace godwit {
namespace {

// More would only be memory that is held at the same time.
constexpr std::size_t kRowsAtOnce = 2000;

constexpr std::uint64_t kAdviceFlags = proto::AREA_DONT_FORK | proto::AREA_DONT_DUMP |
                                       proto::AREA_WIPE_ON_FORK | proto::AREA_MERGEABLE |
                                       proto::AREA_HUGE_PAGES | proto::AREA_NO_HUGE_PAGES |
                                       proto::AREA_SEQUENTIAL | proto::AREA_RANDOM;

bool takes_missing_pages(const proto::Mapping& area) {
  return area.backing() == proto::BACKING_ANONYMOUS ||
         area.backing() == proto::BACKING_SHARED_ANONYMOUS;
}

// What an area is mapped with until finish(). Shared memory can't be written past its protection
// (a forced write would have to copy the page), so it stays open for as long as pages come.
std::uint32_t building_protection(const proto::Mapping& area) {
  if (area.backing() == proto::BACKING_SHARED_ANONYMOUS) return PROT_READ | PROT_WRITE;
  return area.protection();
}

std::string area_name(const PageRange& range) {
  return fmt::format("area {:x}-{:x}", range.start, range.end);
}

// madvise(2) rows that turn `have` flags into `want` flags.
void advise(const PageRange& range, std::uint64_t have, std::uint64_t want, SyscallBatch& batch) {
  struct Advice {
    std::uint64_t flag;
    int on;
    int off;
  };
  static constexpr Advice kAdvices[] = {
      {proto::AREA_DONT_FORK, MADV_DONTFORK, MADV_DOFORK},
      {proto::AREA_DONT_DUMP, MADV_DONTDUMP, MADV_DODUMP},
      {proto::AREA_WIPE_ON_FORK, MADV_WIPEONFORK, MADV_KEEPONFORK},
      {proto::AREA_MERGEABLE, MADV_MERGEABLE, MADV_UNMERGEABLE},
      {proto::AREA_HUGE_PAGES, MADV_HUGEPAGE, -1},
      {proto::AREA_NO_HUGE_PAGES, MADV_NOHUGEPAGE, -1},
      {proto::AREA_SEQUENTIAL, MADV_SEQUENTIAL, MADV_NORMAL},
      {proto::AREA_RANDOM, MADV_RANDOM, MADV_NORMAL},
  };
  // What is turned off goes first: MADV_NORMAL clears both reading hints.
  for (const bool on : {false, true}) {
    for (const Advice& advice : kAdvices) {
      if (((have ^ want) & advice.flag) == 0 || ((want & advice.flag) != 0) != on) continue;
      const int value = on ? advice.on : advice.off;
      if (value >= 0) batch.add(SYS_madvise, {range.start, range.bytes(), value}, area_name(range));
    }
  }
}

void name_area(const PageRange& range, const std::string& name, SyscallBatch& batch) {
  const Argument text = name.empty() ? Argument(0) : Argument(batch.put_string(name));
  // May fail: the kernel may be built without names for anonymous areas.
  batch.add_may_fail(SYS_prctl,
                     {PR_SET_VMA, PR_SET_VMA_ANON_NAME, range.start, range.bytes(), text},
                     area_name(range));
}

std::vector<PageRange> ranges_of(const proto::Mappings& mappings) {
  std::vector<PageRange> ranges;
  for (const proto::Mapping& area : mappings.areas()) ranges.push_back({area.start(), area.end()});
  return ranges;
}

std::vector<PageRange> ranges_of(const std::vector<MapsLine>& lines) {
  std::vector<PageRange> ranges;
  for (const MapsLine& line : lines) ranges.push_back(line.range);
  return ranges;
}

bool look_alike(const proto::Mapping& one, const proto::Mapping& other) {
  return one.backing() == proto::BACKING_ANONYMOUS && other.backing() == one.backing() &&
         one.end() == other.start() && one.protection() == other.protection() &&
         one.flags() == other.flags() && one.name() == other.name();
}

// Areas that keep a part of what they were and get another.
std::vector<bool> growing(const LayoutDiff& diff, const proto::Mappings& want) {
  std::vector<bool> grows(static_cast<std::size_t>(want.areas_size()));
  auto added = diff.map.begin();
  for (int index = 0; index < want.areas_size(); ++index) {
    const proto::Mapping& area = want.areas(index);
    std::uint64_t bytes = 0;
    for (; added != diff.map.end() && added->range.end <= area.end(); ++added) {
      bytes += added->range.bytes();
    }
    grows[static_cast<std::size_t>(index)] = bytes != 0 && bytes != area.end() - area.start();
  }
  return grows;
}

// A piece added to an area joins it when it is registered and so becomes one mapping with it, but
// it may as well join a neighbour that looks the same. A flag that the neighbours do not have keeps
// them apart for that moment.
struct Fence {
  PageRange range;
  std::uint64_t flags = 0;
  std::uint64_t other_flags = 0;
};

// Areas that follow each other and look alike, of which one at least grows.
struct Row {
  PageRange range;
  std::vector<Fence> fences;
};

std::vector<Row> growing_rows(const LayoutDiff& diff, const proto::Mappings& want) {
  std::vector<Row> rows;
  if (diff.map.empty()) return rows;
  const std::vector<bool> grows = growing(diff, want);
  const int count = want.areas_size();
  for (int first = 0, end = 0; first < count; first = end) {
    for (end = first + 1; end < count && look_alike(want.areas(end - 1), want.areas(end));) ++end;
    std::vector<Fence> fences;
    // Every second one of a row of look-alikes: two fenced neighbours would look alike again.
    for (int index = first + 1; index < end; index += 2) {
      const auto at = static_cast<std::size_t>(index);
      if (!grows[at - 1] && !grows[at] && (index + 1 == end || !grows[at + 1])) continue;
      const proto::Mapping& area = want.areas(index);
      const std::uint64_t flags = area.flags() & kAdviceFlags;
      fences.push_back({{area.start(), area.end()}, flags, flags ^ proto::AREA_DONT_DUMP});
    }
    if (fences.empty()) continue;
    rows.push_back({{want.areas(first).start(), want.areas(end - 1).end()}, std::move(fences)});
  }
  return rows;
}

}  // namespace

MappingsRestorer::MappingsRestorer(RemoteTask& task, int agent_pidfd)
    : task_(task), agent_pidfd_(agent_pidfd), have_(std::make_shared<proto::Mappings>()) {}

void MappingsRestorer::build(std::shared_ptr<const proto::Mappings> wanted,
                             std::span<const std::byte> source_vdso) {
  const proto::Mappings& want = *wanted;
  check_mappings(want);
  const std::vector<MapsLine> old = read_maps(task_.host_pid());
  const PageRange home = find_hole({ranges_of(old), ranges_of(want)}, RemoteTask::kHomeBytes);
  task_.move_home(home);

  SyscallBatch clear;
  for (const MapsLine& line : read_maps(task_.host_pid())) {
    if (is_vdso_part(line.path) || line.path == "[vsyscall]" || line.range.overlaps(home)) continue;
    clear.add(SYS_munmap, {line.range.start, line.range.bytes()}, area_name(line.range));
  }
  task_.run(clear);
  vdso_ = place_vdso(task_, want, source_vdso);
  userfaultfd_ = open_userfaultfd(0);
  set_marks(want.marks(), true);
  reconcile(std::move(wanted));
}

void MappingsRestorer::as_described(proto::Mappings& found) const {
  if (!vdso_.stand_in) return;
  const auto is_part = [](const proto::Mapping& area) {
    return area.backing() == proto::BACKING_VDSO || area.backing() == proto::BACKING_VVAR;
  };
  auto& areas = *found.mutable_areas();
  areas.erase(std::remove_if(areas.begin(), areas.end(),
                             [&](const proto::Mapping& area) {
                               return is_part(area) || vdso_.stand_in->contains(area.start());
                             }),
              areas.end());
  for (const proto::Mapping& area : have_->areas()) {
    if (is_part(area)) *areas.Add() = area;
  }
  std::sort(areas.begin(), areas.end(), [](const proto::Mapping& one, const proto::Mapping& other) {
    return one.start() < other.start();
  });
}

// What the source maps there now would take this kernel's vDSO away.
void MappingsRestorer::check_vdso_room(const LayoutDiff& diff) const {
  for (const LayoutSegment& segment : diff.map) {
    if (!vdso_.stand_in || !segment.range.overlaps(vdso_.block)) continue;
    throw Error(
        fmt::format("{} is where the vDSO of this kernel was put", area_name(segment.range)),
        EAGAIN)
        .with_hint("begin the migration again");
  }
}

UniqueFd MappingsRestorer::open_userfaultfd(std::uint64_t features) {
  SyscallBatch batch;
  const RowResult fd = batch.add(SYS_userfaultfd, {O_CLOEXEC | O_NONBLOCK}, "userfaultfd");
  const int number = static_cast<int>(task_.run(batch)[fd]);
  UniqueFd descriptor = task_.copy_fd(number);
  SyscallBatch close;
  close.add(SYS_close, {number}, "userfaultfd");
  task_.run(close);
  userfaultfd_enable(descriptor.get(), features);
  return descriptor;
}

// A shared anonymous object is made whole, once, and every area of it maps a descriptor of it.
void MappingsRestorer::create_shared_objects(const LayoutDiff& diff) {
  for (const LayoutSegment& segment : diff.map) {
    const proto::Mapping& area = *segment.want;
    if (area.backing() != proto::BACKING_SHARED_ANONYMOUS) continue;
    UniqueFd& object = shared_objects_[area.shared_object()];
    if (object.valid()) continue;
    SyscallBatch make;
    const std::uint64_t bytes = area.shared_object_bytes();
    const RowResult where = make.add(
        SYS_mmap,
        {0, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0},
        "shared anonymous object");
    const Address at = static_cast<Address>(task_.run(make)[where]);
    object = open_file(
        fmt::format("/proc/{}/map_files/{:x}-{:x}", task_.host_pid(), at, at + bytes), O_RDWR);
    SyscallBatch drop;
    drop.add(SYS_munmap, {at, bytes}, "shared anonymous object");
    task_.run(drop);
  }
}

void MappingsRestorer::map_segment(const LayoutSegment& segment, const proto::Mappings& want,
                                   SyscallBatch& batch) {
  const proto::Mapping& area = *segment.want;
  const PageRange& range = segment.range;
  int flags = MAP_FIXED_NOREPLACE | (area.shared() ? MAP_SHARED : MAP_PRIVATE);
  if ((area.flags() & proto::AREA_GROWS_DOWN) != 0) flags |= MAP_GROWSDOWN;
  if ((area.flags() & proto::AREA_NO_RESERVE) != 0) flags |= MAP_NORESERVE;
  const std::uint64_t offset = offset_at(area, range.start);
  switch (area.backing()) {
    case proto::BACKING_ANONYMOUS:
      batch.add(SYS_mmap,
                {range.start, range.bytes(), area.protection(), flags | MAP_ANONYMOUS, -1, 0},
                area_name(range));
      break;
    case proto::BACKING_FILE: {
      const proto::FileIdentity& file = want.files(static_cast<int>(area.file()));
      const int access = area.shared() && area.file_opened_writable() ? O_RDWR : O_RDONLY;
      const RowResult fd =
          batch.add(SYS_openat, {AT_FDCWD, batch.put_string(file.path()), access | O_CLOEXEC, 0},
                    file.path());
      batch.add(SYS_mmap, {range.start, range.bytes(), area.protection(), flags, fd, offset},
                fmt::format("{} of {}", area_name(range), file.path()));
      batch.add(SYS_close, {fd}, file.path());
      break;
    }
    case proto::BACKING_SHARED_ANONYMOUS: {
      const UniqueFd& object = shared_objects_.at(area.shared_object());
      const RowResult fd =
          batch.add(SYS_pidfd_getfd, {agent_pidfd_, object.get(), 0}, "shared anonymous object");
      batch.add(SYS_mmap,
                {range.start, range.bytes(), building_protection(area), flags, fd, offset},
                area_name(range));
      batch.add(SYS_close, {fd}, "shared anonymous object");
      break;
    }
    default:
      fail("description: {} has an unknown backing {}", area_name(range),
           static_cast<int>(area.backing()));
  }
  if (!area.name().empty()) name_area(range, area.name(), batch);
  advise(range, 0, area.flags() & kAdviceFlags, batch);
}

void MappingsRestorer::reconcile(std::shared_ptr<const proto::Mappings> wanted) {
  const proto::Mappings& want = *wanted;
  check_mappings(want);
  const LayoutDiff diff = diff_layout(*have_, want);
  check_vdso_room(diff);
  create_shared_objects(diff);
  SyscallBatch batch;
  for (const PageRange& range : diff.unmap) {
    batch.add(SYS_munmap, {range.start, range.bytes()}, area_name(range));
  }
  for (const LayoutSegment& segment : diff.map) {
    map_segment(segment, want, batch);
    if (batch.rows().size() >= kRowsAtOnce) task_.run(std::exchange(batch, {}));
  }
  for (const LayoutSegment& segment : diff.change) {
    const PageRange& range = segment.range;
    const std::uint32_t protection = building_protection(*segment.want);
    if (building_protection(*segment.have) != protection) {
      batch.add(SYS_mprotect, {range.start, range.bytes(), protection}, area_name(range));
    }
    advise(range, segment.have->flags() & kAdviceFlags, segment.want->flags() & kAdviceFlags,
           batch);
    if (segment.have->name() != segment.want->name()) {
      name_area(range, segment.want->name(), batch);
    }
  }
  const std::vector<Row> rows = growing_rows(diff, want);
  SyscallBatch take_down;
  for (const Row& row : rows) {
    // What is added joins by being registered, so what it joins has to be.
    if (released_) register_again(row.range);
    for (const Fence& fence : row.fences) {
      advise(fence.range, fence.flags, fence.other_flags, batch);
      advise(fence.range, fence.other_flags, fence.flags, take_down);
    }
  }
  if (!batch.empty()) task_.run(batch);
  for (const LayoutSegment& segment : diff.map) {
    fresh_.push_back(segment.range);
    const bool in_row = std::any_of(rows.begin(), rows.end(), [&](const Row& row) {
      return row.range.overlaps(segment.range);
    });
    if (takes_missing_pages(*segment.want) && (!released_ || in_row)) register_range(segment.range);
  }
  if (!diff.map.empty() || !diff.unmap.empty()) page_areas_changed_ = true;
  if (!take_down.empty()) task_.run(take_down);
  set_marks(want.marks(), false);
  have_ = std::move(wanted);
}

void MappingsRestorer::register_range(const PageRange& range) {
  userfaultfd_register(userfaultfd_.get(), range, UFFDIO_REGISTER_MODE_MISSING);
  registered_ = true;
}

void MappingsRestorer::register_again(const PageRange& range) {
  for (const proto::Mapping& area : have_->areas()) {
    const auto part =
        PageRange::make(std::max(area.start(), range.start), std::min(area.end(), range.end));
    if (part && takes_missing_pages(area)) register_range(*part);
  }
}

void MappingsRestorer::release() {
  unregister_areas();
  released_ = true;
  // A fault would make a huge page of zeros around each page that is placed from now on.
  SyscallBatch batch;
  batch.add(SYS_prctl, {PR_SET_THP_DISABLE, 1, 0, 0, 0}, "huge pages");
  task_.run(batch);
}

void MappingsRestorer::reconcile_marks(const proto::MemoryMarks& want) { set_marks(want, false); }

void MappingsRestorer::set_marks(const proto::MemoryMarks& want, bool first) {
  if (!first && marks_.SerializeAsString() == want.SerializeAsString()) return;
  marks_ = want;
  prctl_mm_map map{};
  map.start_code = want.start_code();
  map.end_code = want.end_code();
  map.start_data = want.start_data();
  map.end_data = want.end_data();
  map.start_brk = want.start_brk();
  map.brk = want.brk();
  map.start_stack = want.start_stack();
  map.arg_start = want.arg_start();
  map.arg_end = want.arg_end();
  map.env_start = want.env_start();
  map.env_end = want.env_end();
  map.exe_fd = static_cast<std::uint32_t>(-1);
  if (first) {
    set_first_marks(map, want);
    return;
  }
  SyscallBatch batch;
  batch.add(SYS_prctl, {PR_SET_MM, PR_SET_MM_MAP, batch.put_value(map), sizeof(map), 0},
            "memory marks");
  task_.run(batch);
}

// The first time with the auxiliary vector and the executable. The structure points to the vector,
// so both stand at a known address for the time of the call.
void MappingsRestorer::set_first_marks(prctl_mm_map map, const proto::MemoryMarks& want) {
  SyscallBatch prepare;
  const RowResult exe = prepare.add(
      SYS_openat, {AT_FDCWD, prepare.put_string(want.executable()), O_RDONLY | O_CLOEXEC, 0},
      want.executable());
  const RowResult page = prepare.add(
      SYS_mmap, {0, kPageSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0},
      "memory marks");
  const BatchOutcome prepared = task_.run(prepare);
  const Address vector = static_cast<Address>(prepared[page]);
  if (want.auxv().size() > kPageSize) fail("description: auxv of {} bytes", want.auxv().size());
  task_.write_memory(vector, std::as_bytes(std::span(want.auxv())));
  map.auxv = reinterpret_cast<__u64*>(vector);
  map.auxv_size = static_cast<std::uint32_t>(want.auxv().size());
  map.exe_fd = static_cast<std::uint32_t>(prepared[exe]);
  SyscallBatch batch;
  batch.add(SYS_prctl, {PR_SET_MM, PR_SET_MM_MAP, batch.put_value(map), sizeof(map), 0},
            "memory marks");
  batch.add(SYS_munmap, {vector, kPageSize}, "memory marks");
  batch.add(SYS_close, {map.exe_fd}, want.executable());
  task_.run(batch);
}

std::vector<proto::PageArea> MappingsRestorer::take_page_areas() {
  page_areas_changed_ = false;
  return page_areas(*have_, std::exchange(fresh_, {}));
}

// In gaps there may be what is not the process's.
template <typename Wanted, typename Use>
void MappingsRestorer::for_each_row(Wanted wanted, Use use) const {
  PageRange row{0, 0};
  for (const proto::Mapping& area : have_->areas()) {
    if (!wanted(area)) continue;
    if (row.end != area.start()) {
      if (row.start != row.end) use(row);
      row.start = area.start();
    }
    row.end = area.end();
  }
  if (row.start != row.end) use(row);
}

void MappingsRestorer::unregister_areas() {
  for_each_row(takes_missing_pages, [&](const PageRange& row) {
    const int code = try_userfaultfd_unregister(userfaultfd_.get(), row);
    if (code != 0) throw_errno(code, "userfaultfd: unregistering " + area_name(row));
  });
  registered_ = false;
}

void MappingsRestorer::prepare_lazily() {
  lazy_userfaultfd_ = open_userfaultfd(UFFD_FEATURE_EVENT_FORK | UFFD_FEATURE_EVENT_REMAP |
                                       UFFD_FEATURE_EVENT_REMOVE | UFFD_FEATURE_EVENT_UNMAP |
                                       UFFD_FEATURE_THREAD_ID);
}

void MappingsRestorer::drop(const std::vector<PageRange>& stale) {
  SyscallBatch batch;
  for (const PageRange& range : stale) {
    batch.add(SYS_madvise, {range.start, range.bytes(), MADV_DONTNEED}, area_name(range));
  }
  if (!batch.empty()) task_.run(batch);
}

void MappingsRestorer::begin_lazily(const std::vector<PageRange>& stale) {
  drop(stale);
  unregister_areas();
  for_each_row(
      [](const proto::Mapping& area) { return area.backing() == proto::BACKING_ANONYMOUS; },
      [&](const PageRange& row) {
        userfaultfd_register(lazy_userfaultfd_.get(), row, UFFDIO_REGISTER_MODE_MISSING);
      });
}

void MappingsRestorer::finish() {
  if (registered_) unregister_areas();
  SyscallBatch batch;
  std::vector<std::pair<RowResult, PageRange>> inaccessible;
  for (const proto::Mapping& area : have_->areas()) {
    const PageRange range{area.start(), area.end()};
    const bool locked = (area.flags() & proto::AREA_LOCKED) != 0;
    if (locked && area.protection() != PROT_NONE) {
      batch.add(SYS_mlock, {range.start, range.bytes()}, area_name(range));
    }
    if (area.protection() != building_protection(area)) {
      batch.add(SYS_mprotect, {range.start, range.bytes(), area.protection()}, area_name(range));
    }
    if (locked && area.protection() == PROT_NONE) {
      inaccessible.emplace_back(
          batch.add_may_fail(SYS_mlock, {range.start, range.bytes()}, area_name(range)), range);
    }
  }
  if (batch.empty()) return;
  const BatchOutcome outcome = task_.run(batch);
  // Such an area is locked, and then its pages can't be brought in: ENOMEM, as in mlockall(2) for
  // the program itself, which does not tell of it.
  for (const auto& [row, range] : inaccessible) {
    if (outcome[row] == 0 || outcome[row] == -ENOMEM) continue;
    errno = static_cast<int>(-outcome[row]);
    throw_system("mlock of {}", area_name(range));
  }
}

}  // namespace godwit
