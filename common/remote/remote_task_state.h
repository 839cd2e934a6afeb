// What a RemoteTask consists of; private to common/remote.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "common/remote/batch_runner.h"
#include "common/remote/code_site.h"
#include "common/remote/remote_task.h"
#include "common/remote/task_memory.h"

namespace godwit {

struct RemoteTask::State {
  State(pid_t host_pid, bool is_skeleton);

  pid_t pid;
  bool skeleton;
  bool expendable;  // it dies with us: no order of steps has to spare it
  bool stopped = false;
  bool others_run = false;    // stopped are only those in `threads`
  bool seen_before = false;   // stopped once already: leftovers are dealt with
  bool site_checked = false;  // in this stop
  UniqueFd pidfd;
  TaskMemory memory;
  SiteRecord record;  // as it stands in the task
  BatchRunner runner;
  std::vector<Tracee> threads;
  // The thread that alone may stand in the stub now: a look at each of thousands takes longer than
  // a batch.
  std::size_t lent = SIZE_MAX;
  pid_t lent_tid = 0;
  std::vector<std::byte> buffer;  // data and rows on their way
  std::function<void()> before_stop;
  std::function<void()> after_stop;

  PageRange scratch() const {
    return {record.scratch_start, record.scratch_start + record.scratch_bytes};
  }
  bool has_scratch() const { return record.scratch_bytes != 0; }
  bool has_home() const { return record.home_bytes != 0; }

  // Seizes what is not seized yet, until a look at /proc finds nothing new; then waits.
  void stop_all();
  bool seize_new_threads(bool interrupt);
  void try_seize_thread(pid_t tid, bool interrupt);
  bool has_all_threads() const;
  void wait_all_stopped();
  void remove_gone();
  // What is written in the task already: by an agent that died, or for the process it is a copy of.
  void take_over_sites();
  void take_over_as_copy(const FoundSite& site);
  void leave_sites(Tracee& thread, std::vector<FoundSite>& sites);
  bool stands_in(const Tracee& thread, const FoundSite& site) const;
  bool returns_to(const Tracee& thread, const FoundSite& site) const;
  void let_run_shortly(Tracee& thread);
  bool has_scratch_of(const FoundSite& site) const;
  void unmap_foreign_scratch(const FoundSite& site);

  // The code stands in the task; a thread that lent itself before has its registers again.
  void prepare(Tracee& thread);
  std::int64_t call(Tracee& thread, long number, std::initializer_list<std::uint64_t> arguments);
  void need_scratch(Tracee& thread, std::uint64_t bytes);
  void map_scratch(Tracee& thread, std::uint64_t bytes);
  void unmap_scratch(Tracee& thread);
  BatchOutcome run(Tracee& thread, const SyscallBatch& batch);
  // `batch` has at most as many rows as fit, and `part` is its part of the scratch area.
  void begin_part(Tracee& thread, std::size_t part, const SyscallBatch& batch);
  BatchOutcome end_part(Tracee& thread, std::size_t part, const SyscallBatch& batch);
  Address part_address(std::size_t part, const SyscallBatch& batch) const;
  std::size_t parts_at_once(const SyscallBatch& batch);
  void run_at_once(std::span<Tracee* const> some, const SyscallBatch& batch,
                   const TakeOutcome& take);
  void write_chunk(const SyscallBatch& batch, Address data, std::size_t first, std::size_t count,
                   const std::vector<std::int64_t>& results);
  std::uint64_t rows_that_fit(const SyscallBatch& batch) const;
  [[noreturn]] void throw_failed_row(const Tracee& thread, const SyscallBatch& batch,
                                     const BatchOutcome& outcome) const;

  Tracee& any_thread();
  void unregister_rseq();
  void move_code_to_home(const PageRange& home);
  // Nobody stands in it; nothing refers to it.
  void erase_own_site();
  void detach_all();
  void kill() noexcept;
};

// The first bytes of the scratch area are its mark.
inline constexpr std::uint64_t kScratchHeaderBytes = 64;

// True when the process's cgroup, or one above it, is frozen: no thread of it would run.
bool is_frozen(pid_t host_pid);

}  // namespace godwit
