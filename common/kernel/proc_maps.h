// /proc/PID/maps and the VmFlags of /proc/PID/smaps (proc(5), Documentation/filesystems/proc.rst).
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/base/page_range.h"

namespace godwit {

struct MapsLine {
  PageRange range;
  std::uint32_t protection = 0;  // PROT_*
  bool shared = false;
  std::uint64_t offset = 0;  // bytes
  std::uint64_t device = 0;  // makedev(major, minor)
  std::uint64_t inode = 0;
  std::string path;  // or [heap], [anon:name], ...; empty
};

// One line of maps; nullopt when it is malformed.
std::optional<MapsLine> parse_maps_line(std::string_view line);

// The text of maps as it is now is `expected`: compared as it is read.
bool has_maps_text(pid_t pid, std::string_view expected);

// The whole text, in order and without overlap. The kernel takes a running process' areas a few at
// a time, so one that merged or moved in between may be told twice: the first telling counts, and
// what lies beyond it of the second. `source` names the text in the Error for a malformed line.
std::vector<MapsLine> parse_maps(std::string_view text, std::string_view source);
// The same, line by line.
void visit_maps(std::string_view text, std::string_view source,
                const std::function<void(MapsLine&)>& visit);

// Throws Error naming the pid; empty for a kernel thread or a zombie.
std::vector<MapsLine> read_maps(pid_t pid);

// The VmFlags ("rd wr mr mw ...") of every area, in the order of maps. Walks the page tables: some
// milliseconds per GiB, so never in the blackout.
struct AreaVmFlags {
  PageRange range;
  std::string path;
  std::string flags;
  bool has(std::string_view two_letters) const;
};
std::vector<AreaVmFlags> read_vm_flags(pid_t pid);
// The same, area by area, as they are read: the text is a KiB each.
void visit_vm_flags(pid_t pid, const std::function<void(const AreaVmFlags&)>& visit);

// XXH3-64 of a file's whole content; throws Error naming the path.
std::uint64_t hash_file(const std::string& path);

// A hole of `bytes` that no area of any of the lists touches, with a free page on both sides,
// looked for downwards from the top of the usual mmap space. Throws Error when there is none.
PageRange find_hole(const std::vector<std::vector<PageRange>>& taken, std::uint64_t bytes);

}  // namespace godwit
