// The address space of a process (proto/mappings.proto), without the pages in it.
//
// What can't be rebuilt at the destination is refused with the area named: deleted files, memfds,
// System V and huge-page memory, devices, asynchronous I/O rings, guard regions, sealed and shadow
// stack areas.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "common/kernel/proc_maps.h"
#include "common/model/describe.h"
#include "common/model/findings.h"
#include "source-agent/capture/unmovable.h"

namespace godwit {

// Why an area can't be moved.
struct Obstacle {
  std::string id;
  std::string problem;
  std::string way_out;
};

// Describes one address space again and again. What is costly and rarely changes (content hashes,
// VmFlags) is kept between the calls, so that a call in the blackout reads one procfs file.
class MappingsCapture {
 public:
  explicit MappingsCapture(pid_t host_pid);

  // Reads VmFlags anew: some milliseconds per GiB. Before the blackout.
  void refresh_flags();

  // Describes the areas of maps. `task` may be null; the program break is taken from [heap], whose
  // end is on a page. Throws Refused for an area that can't be moved. When nothing has changed
  // since the last call, costs no more than reading the one file.
  // Who keeps the result keeps the areas, not a copy of them.
  std::shared_ptr<const proto::Mappings> describe_areas(RemoteTask* task);
  // As last described; null before.
  const std::shared_ptr<const proto::Mappings>& described() const { return last_; }
  // The same without those areas; the process runs.
  proto::Mappings describe_movable_areas();
  // Nothing has changed since the last description of the areas (the flags of areas aside, which
  // are those of refresh_flags()). Reads the one file.
  bool is_as_described() const;
  // The marks, without areas: to go with is_as_described().
  proto::Mappings describe_marks() const;
  // And the exact program break, where the process is stopped.
  proto::Mappings describe(RemoteTask* task);

  // The same into findings: everything that can't be moved, at once.
  void preflight(Findings& findings);

 private:
  // Adjoining areas of the same flags are one.
  struct FlagsRange {
    PageRange range;
    std::uint64_t flags = 0;  // AreaFlag bits
    bool operator==(const FlagsRange&) const = default;
  };
  struct Obstructed {
    PageRange range;
    Obstacle obstacle;
  };
  std::uint64_t flags_of(const PageRange& range) const;
  std::uint32_t file_index(const MapsLine& line, bool executable, proto::Mappings& out);
  proto::Mappings describe_text(const std::string& text, RemoteTask* task,
                                Unmovable unmovable = Unmovable::kRefuse);
  proto::Mapping describe_area(const MapsLine& line, proto::Mappings& out);

  pid_t host_pid_;
  std::vector<FlagsRange> flags_;
  std::vector<Obstructed> obstructed_;                // by their flags
  std::map<std::string, proto::FileIdentity> files_;  // by path, device and inode
  proto::MemoryMarks marks_;
  std::string last_text_;  // of maps
  std::shared_ptr<const proto::Mappings> last_;
};

proto::Mappings capture_mappings(CaptureContext& context);
void preflight_mappings(pid_t host_pid, Findings& findings);

}  // namespace godwit
