// Where the stub sits in a task, and what is written next to it.
//
//   site:  [stub code][save area][SiteRecord][further save areas]
//
// It is one piece and ends within its page (arch/arch.h): as many save areas as there is room for.
//
// Normally that is the zero bytes behind the vDSO image: the vDSO is an ELF file of no whole number
// of pages, mapped private and executable (vdso(7)), so its last page ends in bytes that nobody
// uses and a debugger may write. Where it has too few, another executable private mapping of a file
// serves. In a skeleton it is the first page of the home.
//
// The record tells the next agent, should this one be killed, what to remove.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "common/kernel/proc_maps.h"
#include "common/remote/task_memory.h"

namespace godwit {

struct SiteRecord {
  std::uint64_t scratch_start = 0;  // the mapping we made, or are about to make; 0: none
  std::uint64_t scratch_bytes = 0;
  std::uint64_t home_start = 0;
  std::uint64_t home_bytes = 0;
};

struct FoundSite {
  Address code = 0;
  SiteRecord record;
};

// Bytes that the site takes whose code is at `code`.
std::uint64_t site_bytes(Address code);
// How many save areas it has, and where.
std::size_t save_areas(Address code);
Address save_area(Address code, std::size_t index);
// Sites that another agent wrote, or that came along with a copy of the address space.
std::vector<FoundSite> find_written_sites(const TaskMemory& memory,
                                          const std::vector<MapsLine>& maps);
// Room for a site, with one save area at least. Throws Error when there is none.
Address find_room_for_site(const TaskMemory& memory, const std::vector<MapsLine>& maps);
// Room behind the image in one mapping, the vDSO's.
std::optional<Address> find_room_in(const TaskMemory& memory, const PageRange& range);

void write_site(const TaskMemory& memory, Address code, const SiteRecord& record);
void write_site_record(const TaskMemory& memory, Address code, const SiteRecord& record);
void erase_site(const TaskMemory& memory, Address code);
// False when the address space is another one (execve(2)) or somebody wrote over the site.
bool site_is_intact(const TaskMemory& memory, Address code);

}  // namespace godwit
