#include "dest-agent/restore/process_attributes.h"

#include <linux/capability.h>
#include <linux/prctl.h>
#include <sys/syscall.h>

#include "common/base/log.h"
#include "common/base/unique_fd.h"
#include "common/kernel/proc_status.h"
#include "common/kernel/proc_text.h"

namespace godwit {
namespace {

// Newer than this system's headers (prctl(2)).
constexpr int kSetMemoryDenyWriteExecute = 65;  // PR_SET_MDWE
constexpr int kSetMemoryMerge = 67;             // PR_SET_MEMORY_MERGE

bool may_do_everything() {
  return (read_proc_status("/proc/self").capabilities_effective >> CAP_SYS_RESOURCE & 1) != 0;
}

void set_huge_pages(const proto::ProcessAttributes& want, SyscallBatch& batch) {
  batch.add(SYS_prctl, {PR_SET_THP_DISABLE, want.thp_disabled(), want.thp_disable_flags(), 0, 0},
            "huge pages");
}

// One at a time: each command is one bit. With several threads a first one waits for every
// processor (some ms): a process registers when it starts, so that is before the blackout.
void register_barriers(std::uint32_t have, std::uint32_t want, SyscallBatch& batch) {
  for (std::uint32_t missing = want & ~have; missing != 0; missing &= missing - 1) {
    batch.add(SYS_membarrier, {missing & -missing, 0, 0}, "memory barriers");
  }
}

// A merely faster or smaller process without it: not worth an end.
void set_memory_merge(const proto::ProcessAttributes& want, SyscallBatch& batch) {
  batch.add_may_fail(SYS_prctl, {kSetMemoryMerge, want.memory_merge(), 0, 0, 0}, "memory merge");
}

}  // namespace

void plan_process_attributes(const proto::ProcessAttributes& want, SyscallBatch& batch) {
  batch.add(SYS_personality, {want.personality()}, "personality");
  set_huge_pages(want, batch);
  batch.add(SYS_prctl, {PR_SET_CHILD_SUBREAPER, want.child_subreaper(), 0, 0, 0}, "subreaper");
  if (want.memory_merge() != 0) set_memory_merge(want, batch);
  register_barriers(0, want.memory_barriers(), batch);
}

void plan_process_attributes(const proto::ProcessAttributes& have,
                             const proto::ProcessAttributes& want, SyscallBatch& batch) {
  if (have.personality() != want.personality()) {
    batch.add(SYS_personality, {want.personality()}, "personality");
  }
  if (have.thp_disabled() != want.thp_disabled() ||
      have.thp_disable_flags() != want.thp_disable_flags()) {
    set_huge_pages(want, batch);
  }
  if (have.child_subreaper() != want.child_subreaper()) {
    batch.add(SYS_prctl, {PR_SET_CHILD_SUBREAPER, want.child_subreaper(), 0, 0, 0}, "subreaper");
  }
  if (have.memory_merge() != want.memory_merge()) set_memory_merge(want, batch);
  register_barriers(have.memory_barriers(), want.memory_barriers(), batch);
}

void plan_process_attributes_last(const proto::ProcessAttributes& want, SyscallBatch& batch) {
  set_huge_pages(want, batch);
  // 2 (readable by root only) comes from the system's setting; nobody may ask for it: 0 is
  // stricter.
  batch.add(SYS_prctl, {PR_SET_DUMPABLE, want.dumpable() == 1, 0, 0, 0}, "dumpable");
  if (want.deny_write_execute() != 0) {
    batch.add(SYS_prctl, {kSetMemoryDenyWriteExecute, want.deny_write_execute(), 0, 0, 0}, "mdwe");
  }
}

void plan_tsc_mode(const proto::ProcessAttributes& want, SyscallBatch& batch) {
  if (want.tsc_mode() != PR_TSC_SIGSEGV) return;
  batch.add(SYS_prctl, {PR_SET_TSC, want.tsc_mode(), 0, 0, 0}, "time stamp counter");
}

void apply_process_attributes(pid_t host_pid, const proto::ProcessAttributes& want) {
  const std::string filter = fmt::format("/proc/{}/coredump_filter", host_pid);
  if (parse_number<std::uint32_t>(trim(read_file(filter)), filter, 16) != want.coredump_filter()) {
    write_file(filter, fmt::format("{:#x}", want.coredump_filter()));
  }
  const std::string score = fmt::format("/proc/{}/oom_score_adj", host_pid);
  if (parse_number<int>(trim(read_file(score)), score) == want.oom_score_adjust()) return;
  try {
    write_file(score, fmt::format("{}", want.oom_score_adjust()));
  } catch (const Error& error) {
    if (error.code() != EACCES && error.code() != EPERM) throw;
    log_warning("task={} oom_score_adj={} not set: lowering it needs CAP_SYS_RESOURCE", host_pid,
                want.oom_score_adjust());
  }
}

void check_process_attributes(const proto::ProcessAttributes& want, Findings& findings) {
  const bool privileged = may_do_everything();
  const int own = parse_number<int>(trim(read_file("/proc/self/oom_score_adj")), "oom_score_adj");
  if (!privileged && want.oom_score_adjust() < own) {
    warn(findings, "oom-score-lower", fmt::format("oom_score_adj {}", want.oom_score_adjust()),
         fmt::format("it stays at {}: lowering it needs CAP_SYS_RESOURCE", own),
         "start dest-agent with CAP_SYS_RESOURCE, or with a lower oom_score_adj itself");
  }
  if (want.dumpable() == 2) {
    warn(findings, "dumpable-2", "dumpable", "2 cannot be asked for; 0 is set, which is stricter",
         "none is needed");
  }
  if (!privileged && want.memory_merge() != 0) {
    warn(findings, "memory-merge", "PR_SET_MEMORY_MERGE",
         "the destination agent may not set it; memory is no longer merged",
         "start dest-agent with CAP_SYS_RESOURCE");
  }
}

}  // namespace godwit
