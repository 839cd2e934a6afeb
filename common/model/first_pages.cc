#include "common/model/first_pages.h"

#include <cstring>

#include "arch/arch.h"

namespace godwit {

void add_first_pages(const proto::Thread& thread, std::vector<PageRange>& pages) {
  constexpr std::uint64_t kStackPages = 3;
  const auto add = [&](Address address, std::uint64_t count) {
    const Address start = address / kPageSize * kPageSize;
    if (address != 0) pages.push_back({start, start + count * kPageSize});
  };
  arch::Registers registers;
  const std::string& raw = thread.general_registers();
  if (raw.size() == sizeof(registers.raw)) std::memcpy(&registers.raw, raw.data(), raw.size());
  add(registers.stack_pointer(), kStackPages);
  add(thread.rseq().address(), 1);
  add(thread.robust_list(), 1);
  add(thread.clear_child_tid(), 1);
}

void add_locked_pages(const proto::Mappings& mappings, std::vector<PageRange>& pages) {
  for (const proto::Mapping& area : mappings.areas()) {
    if ((area.flags() & proto::AREA_LOCKED) != 0) pages.push_back({area.start(), area.end()});
  }
}

}  // namespace godwit
