#include "source-agent/capture/mappings.h"

#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include <algorithm>
#include <charconv>
#include <optional>
#include <utility>

#include "common/base/error.h"
#include "common/base/unique_fd.h"
#include "common/model/layout_diff.h"

namespace godwit {
namespace {

constexpr std::string_view kDeleted = " (deleted)";

std::string map_files_link(pid_t pid, const PageRange& range) {
  return fmt::format("/proc/{}/map_files/{:x}-{:x}", pid, range.start, range.end);
}

bool is_shared_anonymous(const MapsLine& line) {
  return line.shared &&
         (line.path == "/dev/zero (deleted)" || line.path.starts_with("[anon_shmem:"));
}

bool is_vdso_part(const std::string& path) { return path == "[vdso]" || path.starts_with("[vvar"); }

std::optional<Obstacle> backing_obstacle(pid_t pid, const MapsLine& line) {
  if (line.inode == 0 || is_shared_anonymous(line)) return std::nullopt;
  if (line.path.starts_with("/memfd:")) {
    return Obstacle{"mapping-memfd", "maps a memfd", "end the use of memfd_create in the program"};
  }
  if (line.path.starts_with("/SYSV")) {
    return Obstacle{"mapping-sysv", "maps a System V segment", "use another kind of memory"};
  }
  if (!line.path.starts_with("/") || line.path.starts_with("/[")) {
    return Obstacle{"mapping-kernel-object", "maps a kernel object", "close what uses it first"};
  }
  struct stat mapped {};
  if (::stat(map_files_link(pid, line.range).c_str(), &mapped) != 0) return std::nullopt;
  if (!S_ISREG(mapped.st_mode)) {
    return Obstacle{"mapping-device", "maps a device", "close the device first"};
  }
  struct stat named {};
  const std::string path = fmt::format("/proc/{}/root{}", pid, line.path);
  if (::stat(path.c_str(), &named) != 0 || named.st_ino != mapped.st_ino ||
      named.st_dev != mapped.st_dev) {
    return Obstacle{"mapping-file-deleted", "maps a file that is no longer at its path",
                    "restart the program on the present file, or put the mapped one back"};
  }
  return std::nullopt;
}

std::optional<Obstacle> flags_obstacle(const AreaVmFlags& area) {
  if (area.has("ht")) {
    return Obstacle{"mapping-hugetlb", "is made of hugetlb pages", "use transparent huge pages"};
  }
  if (area.has("io") || area.has("pf")) {
    return Obstacle{"mapping-device", "maps device memory", "close the device first"};
  }
  if (area.has("um")) {
    return Obstacle{"mapping-userfaultfd", "is served by the program's own userfaultfd",
                    "move the program when it does not use userfaultfd"};
  }
  if (area.has("gu")) {
    return Obstacle{"mapping-guard-region", "holds guard regions (MADV_GUARD_INSTALL)",
                    "use PROT_NONE guards"};
  }
  if (area.has("ss")) {
    return Obstacle{"mapping-shadow-stack", "is a shadow stack", "start the program without it"};
  }
  if (area.has("sl")) {
    return Obstacle{"mapping-sealed", "is sealed (mseal)", "start the program without sealing"};
  }
  if (area.has("dp")) {
    return Obstacle{"mapping-droppable", "is droppable memory", "no way yet"};
  }
  return std::nullopt;
}

std::string area_name(const MapsLine& line) {
  return fmt::format("area {:x}-{:x}{}{}", line.range.start, line.range.end,
                     line.path.empty() ? "" : " ", line.path);
}

std::uint64_t area_flags(const AreaVmFlags& area) {
  struct Name {
    std::string_view letters;
    proto::AreaFlag flag;
  };
  static constexpr Name kNames[] = {
      {"gd", proto::AREA_GROWS_DOWN},    {"lo", proto::AREA_LOCKED},
      {"nr", proto::AREA_NO_RESERVE},    {"dc", proto::AREA_DONT_FORK},
      {"dd", proto::AREA_DONT_DUMP},     {"wf", proto::AREA_WIPE_ON_FORK},
      {"mg", proto::AREA_MERGEABLE},     {"hg", proto::AREA_HUGE_PAGES},
      {"nh", proto::AREA_NO_HUGE_PAGES}, {"sr", proto::AREA_SEQUENTIAL},
      {"rr", proto::AREA_RANDOM},
  };
  std::uint64_t flags = 0;
  for (const Name& name : kNames) {
    if (area.has(name.letters)) flags |= name.flag;
  }
  return flags;
}

// Fields 26 and on of /proc/PID/stat that prctl(PR_SET_MM_MAP) takes (proc(5)).
void read_marks(pid_t pid, proto::MemoryMarks& marks) {
  const std::string text = read_file(fmt::format("/proc/{}/stat", pid));
  std::vector<std::uint64_t> fields(3, 0);  // so that fields[n] is field n of proc(5)
  size_t at = text.rfind(')') + 4;          // behind ") S "
  while (at < text.size()) {
    std::uint64_t value = 0;
    const char* begin = text.data() + at + (text[at] == '-' ? 1 : 0);
    const auto parsed = std::from_chars(begin, text.data() + text.size(), value);
    if (parsed.ec != std::errc()) break;
    fields.push_back(value);
    at = static_cast<size_t>(parsed.ptr - text.data()) + 1;
  }
  // fields[3] is field 4 now: the state letter was skipped.
  const auto field = [&](size_t number) { return fields.at(number - 1); };
  marks.set_start_code(field(26));
  marks.set_end_code(field(27));
  marks.set_start_stack(field(28));
  marks.set_start_data(field(45));
  marks.set_end_data(field(46));
  marks.set_start_brk(field(47));
  marks.set_arg_start(field(48));
  marks.set_arg_end(field(49));
  marks.set_env_start(field(50));
  marks.set_env_end(field(51));
  marks.set_auxv(read_file(fmt::format("/proc/{}/auxv", pid)));
  marks.set_executable(read_link(fmt::format("/proc/{}/exe", pid)));
}

std::string anonymous_name(const std::string& path) {
  for (const std::string_view prefix : {"[anon:", "[anon_shmem:"}) {
    if (path.starts_with(prefix))
      return path.substr(prefix.size(), path.size() - prefix.size() - 1);
  }
  return {};
}

}  // namespace

MappingsCapture::MappingsCapture(pid_t host_pid) : host_pid_(host_pid) {
  read_marks(host_pid, marks_);
  refresh_flags();
}

void MappingsCapture::refresh_flags() {
  const std::vector<FlagsRange> before = std::exchange(flags_, {});
  obstructed_.clear();
  visit_vm_flags(host_pid_, [this](const AreaVmFlags& area) {
    const std::uint64_t flags = area_flags(area);
    if (!flags_.empty() && flags_.back().range.end == area.range.start &&
        flags_.back().flags == flags) {
      flags_.back().range.end = area.range.end;
    } else {
      flags_.push_back({area.range, flags});
    }
    if (area.path == "[vsyscall]" || is_vdso_part(area.path)) return;
    if (auto obstacle = flags_obstacle(area)) {
      obstructed_.push_back({area.range, std::move(*obstacle)});
    }
  });
  if (flags_ != before) last_text_.clear();
}

std::uint64_t MappingsCapture::flags_of(const PageRange& range) const {
  // An area that was split or has grown since refresh_flags() has the flags of the one it overlaps.
  const auto found = std::lower_bound(
      flags_.begin(), flags_.end(), range.start,
      [](const FlagsRange& area, Address start) { return area.range.end <= start; });
  if (found == flags_.end() || !found->range.overlaps(range)) return 0;
  return found->flags;
}

std::uint32_t MappingsCapture::file_index(const MapsLine& line, bool executable,
                                          proto::Mappings& out) {
  for (int index = 0; index < out.files_size(); ++index) {
    if (out.files(index).path() == line.path) {
      if (executable) out.mutable_files(index)->set_executable(true);
      return static_cast<std::uint32_t>(index);
    }
  }
  proto::FileIdentity& known =
      files_[fmt::format("{:x}:{}:{}", line.device, line.inode, line.path)];
  if (known.path().empty()) {
    const std::string path = fmt::format("/proc/{}/root{}", host_pid_, line.path);
    struct stat about {};
    if (::stat(path.c_str(), &about) != 0) throw_system("stat {}", line.path);
    known.set_bytes(static_cast<std::uint64_t>(about.st_size));
    known.set_modified_ns(about.st_mtim.tv_sec * 1'000'000'000LL + about.st_mtim.tv_nsec);
    known.set_inode(about.st_ino);
    known.set_changed_ns(about.st_ctim.tv_sec * 1'000'000'000LL + about.st_ctim.tv_nsec);
    if (!line.shared) known.set_content_hash(hash_file(path));
    known.set_path(line.path);
  }
  *out.add_files() = known;
  out.mutable_files(out.files_size() - 1)->set_executable(executable);
  return static_cast<std::uint32_t>(out.files_size() - 1);
}

proto::Mapping MappingsCapture::describe_area(const MapsLine& line, proto::Mappings& out) {
  proto::Mapping area;
  area.set_start(line.range.start);
  area.set_end(line.range.end);
  area.set_protection(line.protection);
  area.set_shared(line.shared);
  area.set_name(anonymous_name(line.path));
  if (is_vdso_part(line.path)) {
    area.set_backing(line.path == "[vdso]" ? proto::BACKING_VDSO : proto::BACKING_VVAR);
    area.set_name(line.path);
    return area;
  }
  area.set_flags(flags_of(line.range));
  if (is_shared_anonymous(line)) {
    area.set_backing(proto::BACKING_SHARED_ANONYMOUS);
    area.set_shared_object(line.inode);
    area.set_offset(line.offset);
    struct stat object {};
    const std::string link = map_files_link(host_pid_, line.range);
    if (::stat(link.c_str(), &object) != 0) throw_system("stat {}", link);
    area.set_shared_object_bytes(static_cast<std::uint64_t>(object.st_size));
  } else if (line.inode != 0) {
    area.set_backing(proto::BACKING_FILE);
    area.set_offset(line.offset);
    area.set_file(file_index(line, (line.protection & PROT_EXEC) != 0, out));
    if (line.shared) {
      struct stat link {};
      const std::string path = map_files_link(host_pid_, line.range);
      if (::lstat(path.c_str(), &link) != 0) throw_system("stat {}", path);
      area.set_file_opened_writable((link.st_mode & S_IWUSR) != 0);
    }
  } else {
    area.set_backing(proto::BACKING_ANONYMOUS);
  }
  return area;
}

std::shared_ptr<const proto::Mappings> MappingsCapture::describe_areas(RemoteTask* task) {
  const bool runs = task == nullptr || !task->stopped();
  constexpr int kTries = 5;
  for (int tries = 1;; ++tries) {
    // A line tells the device, the inode, the path and whether it is deleted: the same lines are
    // the same areas.
    if (runs && is_as_described()) return last_;  // no text to keep for a moment
    std::string text = read_file(fmt::format("/proc/{}/maps", host_pid_));
    if (text == last_text_) return last_;
    try {
      last_text_.clear();
      last_ = nullptr;
      last_ = std::make_shared<const proto::Mappings>(describe_text(text, task));
      last_text_ = std::move(text);
      return last_;
    } catch (const Error& error) {
      // What a running process unmaps between the listing and the look at it.
      if (!runs || error.code() != ENOENT || tries == kTries) throw;
    }
  }
}

bool MappingsCapture::is_as_described() const {
  return !last_text_.empty() && has_maps_text(host_pid_, last_text_);
}

proto::Mappings MappingsCapture::describe_marks() const {
  proto::Mappings out;
  *out.mutable_marks() = last_->marks();
  return out;
}

proto::Mappings MappingsCapture::describe_movable_areas() {
  return describe_text(read_file(fmt::format("/proc/{}/maps", host_pid_)), nullptr,
                       Unmovable::kLeaveOut);
}

proto::Mappings MappingsCapture::describe_text(const std::string& text, RemoteTask* task,
                                               Unmovable unmovable) {
  proto::Mappings out;
  Address heap_end = 0;
  visit_maps(text, fmt::format("/proc/{}/maps", host_pid_), [&](const MapsLine& line) {
    if (line.path == "[vsyscall]" || (task != nullptr && task->is_scratch(line.range))) return;
    if (const auto obstacle = backing_obstacle(host_pid_, line)) {
      if (unmovable == Unmovable::kLeaveOut) return;
      throw Refused(obstacle->id,
                    fmt::format("pid {}: {} {}", host_pid_, area_name(line), obstacle->problem),
                    obstacle->way_out);
    }
    if (line.path == "[heap]") heap_end = line.range.end;
    *out.add_areas() = describe_area(line, out);
  });
  *out.mutable_marks() = marks_;
  out.mutable_marks()->set_brk(heap_end != 0 ? heap_end : marks_.start_brk());
  return out;
}

proto::Mappings MappingsCapture::describe(RemoteTask* task) {
  proto::Mappings out = *describe_areas(task);
  if (task == nullptr || !task->stopped()) return out;
  SyscallBatch batch;
  const RowResult program_break = batch.add(SYS_brk, {0}, "program break");
  out.mutable_marks()->set_brk(static_cast<std::uint64_t>(task->run(batch)[program_break]));
  return out;
}

void MappingsCapture::preflight(Findings& findings) {
  for (const MapsLine& line : read_maps(host_pid_)) {
    if (line.path == "[vsyscall]" || is_vdso_part(line.path)) continue;
    if (const auto obstacle = backing_obstacle(host_pid_, line)) {
      refuse(findings, obstacle->id, fmt::format("pid {}, {}", host_pid_, area_name(line)),
             obstacle->problem, obstacle->way_out);
    }
    if (line.shared && line.path.starts_with("/") && !line.path.ends_with(kDeleted) &&
        (line.protection & PROT_WRITE) != 0) {
      warn(findings, "mapping-shared-file", fmt::format("pid {}, {}", host_pid_, area_name(line)),
           "is a shared writable mapping of a file",
           "make sure that both hosts see the same storage under this path");
    }
  }
  for (const auto& [range, obstacle] : obstructed_) {
    refuse(findings, obstacle.id,
           fmt::format("pid {}, area {:x}-{:x}", host_pid_, range.start, range.end),
           obstacle.problem, obstacle.way_out);
  }
}

proto::Mappings capture_mappings(CaptureContext& context) {
  return MappingsCapture(context.host_pid).describe(&context.task);
}

void preflight_mappings(pid_t host_pid, Findings& findings) {
  MappingsCapture(host_pid).preflight(findings);
}

std::vector<PageRange> shared_object_data(pid_t host_pid, const proto::Mappings& mappings) {
  std::vector<PageRange> ranges;
  for (const proto::Mapping& area : mappings.areas()) {
    if (area.backing() != proto::BACKING_SHARED_ANONYMOUS) continue;
    const PageRange range{area.start(), area.end()};
    // O_RDONLY: opening does not touch the object, SEEK_DATA does not either.
    const UniqueFd object = try_open_file(map_files_link(host_pid, range), O_RDONLY);
    if (!object.valid()) continue;  // the area changed: the next description has it
    const off_t end = static_cast<off_t>(area.offset() + range.bytes());
    off_t at = static_cast<off_t>(area.offset());
    while (at < end) {
      const off_t data = ::lseek(object.get(), at, SEEK_DATA);
      if (data < 0 || data >= end) break;
      const off_t hole = std::min<off_t>(::lseek(object.get(), data, SEEK_HOLE), end);
      if (hole <= data) break;
      const Address base = range.start - area.offset();
      ranges.push_back({base + static_cast<Address>(data), base + static_cast<Address>(hole)});
      at = hole;
    }
  }
  return ranges;
}

}  // namespace godwit
