// What stands in a task when we first stop it: the code and the scratch area of an agent that was
// killed, or, in a skeleton, those of the process it is a copy of.
//
// A killed agent's batch runs to its end and its tail gives the thread back, so a moment later
// nobody stands in the code any more. One case may last: a signal that came in the tail has its
// handler running, and will return to it. Such a site is left alone, for good if need be; another
// is used.
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "common/base/clock.h"
#include "common/base/error.h"
#include "common/base/log.h"
#include "common/remote/remote_task_state.h"

namespace godwit {
namespace {

constexpr std::int64_t kLeaveTimeoutNs = 2'000'000'000;
constexpr std::int64_t kHandlerTimeoutNs = 100'000'000;
constexpr std::uint64_t kStackBytesMax = 256 << 10;

}  // namespace

bool RemoteTask::State::stands_in(const Tracee& thread, const FoundSite& site) const {
  const Address at = thread.registers().instruction_pointer();
  return at >= site.code && at < site.code + site_bytes(site.code);
}

// Any word above the stack pointer that points into the code, as a signal frame's does.
bool RemoteTask::State::returns_to(const Tracee& thread, const FoundSite& site) const {
  Address at = thread.registers().stack_pointer() & ~std::uint64_t{7};
  const Address end = at + kStackBytesMax;
  std::vector<std::uint64_t> words;
  while (at < end) {
    const Address page_end = std::min((at & ~(kPageSize - 1)) + kPageSize, end);
    words.resize((page_end - at) / sizeof(std::uint64_t));
    if (!memory.try_read(at, std::as_writable_bytes(std::span(words)))) return false;
    if (std::ranges::any_of(words, [&](std::uint64_t word) {
          return word >= site.code && word < site.code + site_bytes(site.code);
        })) {
      return true;
    }
    at = page_end;
  }
  return false;
}

void RemoteTask::State::let_run_shortly(Tracee& thread) {
  thread.resume();
  usleep(50);
  thread.interrupt();
  thread.wait_stopped();
}

// Sites that the thread will return to are taken off the list.
void RemoteTask::State::leave_sites(Tracee& thread, std::vector<FoundSite>& sites) {
  const std::int64_t start = monotonic_ns();
  for (;;) {
    const auto stands =
        std::ranges::find_if(sites, [&](const FoundSite& site) { return stands_in(thread, site); });
    const auto returns = std::ranges::find_if(
        sites, [&](const FoundSite& site) { return returns_to(thread, site); });
    if (stands == sites.end() && returns == sites.end()) return;
    const std::int64_t waited = monotonic_ns() - start;
    if (stands == sites.end() && waited > kHandlerTimeoutNs) {
      sites.erase(returns);
      continue;
    }
    if (waited > kLeaveTimeoutNs) {
      fail("thread {} of process {} does not leave the code of a killed agent", thread.tid(), pid);
    }
    let_run_shortly(thread);
    if (thread.gone()) return;
  }
}

bool RemoteTask::State::has_scratch_of(const FoundSite& site) const {
  const std::vector<MapsLine> maps = read_maps(pid);
  return site.record.scratch_bytes != 0 && std::ranges::any_of(maps, [&](const MapsLine& line) {
           return line.range.start == site.record.scratch_start && line.inode == 0 &&
                  !line.shared && line.range.bytes() == site.record.scratch_bytes &&
                  line.protection == (PROT_READ | PROT_WRITE);
         });
}

// The copy goes on where its maker will, unless it is given other registers.
void RemoteTask::State::take_over_as_copy(const FoundSite& site) {
  runner.set_code(site.code);
  record = site.record;
  if (!has_home() && !has_scratch_of(site)) record.scratch_start = record.scratch_bytes = 0;
  for (Tracee& thread : threads) {
    if (!stands_in(thread, site)) continue;
    std::vector<std::byte> area(arch::stub_bytes() - arch::stub_save_offset());
    memory.read(site.code + arch::stub_save_offset(), area);
    const arch::StubSaved saved = arch::read_stub_save_area(area, thread.own_);
    thread.own_ = saved.registers;
    thread.own_mask_ = saved.signal_mask;
    thread.borrowed_ = thread.mask_replaced_ = true;
  }
}

void RemoteTask::State::take_over_sites() {
  const std::vector<FoundSite> found = find_written_sites(memory, read_maps(pid));
  if (found.empty()) return;
  if (skeleton) return take_over_as_copy(found.front());
  log_info("process {}: found what a killed agent left behind at {:#x}", pid, found.front().code);
  std::vector<FoundSite> free = found;
  for (Tracee& thread : threads) leave_sites(thread, free);
  remove_gone();
  runner.set_code(0);
  if (!free.empty()) {  // ours from here on, scratch area included
    record = has_scratch_of(free.front()) ? free.front().record : SiteRecord{};
    runner.set_code(free.front().code);
    write_site(memory, runner.code(), record);
  }
  for (const FoundSite& site : found) {
    if (!free.empty() && site.code == free.front().code) continue;
    if (has_scratch_of(site)) unmap_foreign_scratch(site);
    const bool in_use =
        std::ranges::none_of(free, [&](const FoundSite& one) { return one.code == site.code; });
    if (in_use) {
      write_site_record(memory, site.code, {});
    } else {
      erase_site(memory, site.code);
    }
  }
}

void RemoteTask::State::unmap_foreign_scratch(const FoundSite& site) {
  const std::int64_t got =
      call(any_thread(), SYS_munmap, {site.record.scratch_start, site.record.scratch_bytes});
  if (got < 0) {
    throw_errno(static_cast<int>(-got),
                fmt::format("unmap a killed agent's scratch area in process {}", pid));
  }
}

}  // namespace godwit
