#include "source-agent/capture/process_attributes.h"

#include <linux/membarrier.h>
#include <linux/prctl.h>
#include <linux/seccomp.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "arch/arch.h"
#include "common/base/unique_fd.h"
#include "common/kernel/proc_status.h"
#include "common/kernel/proc_text.h"

namespace godwit {
namespace {

// Newer than this system's headers (prctl(2)).
constexpr int kGetMemoryDenyWriteExecute = 66;  // PR_GET_MDWE, 6.3
constexpr int kGetMemoryMerge = 68;             // PR_GET_MEMORY_MERGE, 6.4
constexpr int kGetRegistrations = 1 << 9;       // MEMBARRIER_CMD_GET_REGISTRATIONS, 6.3
constexpr std::uint64_t kQueryPersonality = 0xffffffff;

constexpr const char* kSeccompWayOut =
    "run the program without its system call filter (most have an option or a unit setting for it)";

std::uint32_t or_zero(std::int64_t result) {
  return result < 0 ? 0 : static_cast<std::uint32_t>(result);
}

// A kernel that does not tell: a barrier works where it was registered, and fails elsewhere. (The
// global one works for everybody; whether it was registered can't be known.)
std::vector<std::pair<RowResult, std::uint32_t>> ask_for_barriers(SyscallBatch& batch) {
  const auto ask = [&](int command) {
    return batch.add_may_fail(SYS_membarrier, {command, 0, 0}, "memory barriers");
  };
  if (::syscall(SYS_membarrier, kGetRegistrations, 0, 0) >= 0) return {{ask(kGetRegistrations), 0}};
  return {
      {ask(MEMBARRIER_CMD_PRIVATE_EXPEDITED), MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED},
      {ask(MEMBARRIER_CMD_PRIVATE_EXPEDITED_SYNC_CORE),
       MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED_SYNC_CORE},
      {ask(MEMBARRIER_CMD_PRIVATE_EXPEDITED_RSEQ), MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED_RSEQ}};
}

}  // namespace

ProcessAttributesQuery::ProcessAttributesQuery(SyscallBatch& batch)
    : personality_(batch.add(SYS_personality, {kQueryPersonality}, "personality")),
      dumpable_(batch.add(SYS_prctl, {PR_GET_DUMPABLE, 0, 0, 0, 0}, "dumpable")),
      thp_(batch.add_may_fail(SYS_prctl, {PR_GET_THP_DISABLE, 0, 0, 0, 0}, "huge pages")),
      keep_capabilities_(batch.add(SYS_prctl, {PR_GET_KEEPCAPS, 0, 0, 0, 0}, "keep caps")),
      merge_(batch.add_may_fail(SYS_prctl, {kGetMemoryMerge, 0, 0, 0, 0}, "memory merge")),
      deny_write_execute_(
          batch.add_may_fail(SYS_prctl, {kGetMemoryDenyWriteExecute, 0, 0, 0, 0}, "mdwe")),
      barriers_(ask_for_barriers(batch)),
      subreaper_(batch.reserve(sizeof(int))),
      tsc_(batch.reserve(sizeof(int))),
      asked_(batch.reserve(sizeof(std::uint64_t))) {
  batch.add(SYS_prctl, {PR_GET_CHILD_SUBREAPER, subreaper_, 0, 0, 0}, "child subreaper");
  tsc_row_ = batch.add_may_fail(SYS_prctl, {PR_GET_TSC, tsc_, 0, 0, 0}, "tsc");
  if (const auto asked = arch::asked_state()) {
    asked_row_ = batch.add_may_fail(asked->call, {asked->what, asked_}, "asked register state");
  }
}

void ProcessAttributesQuery::read(const BatchOutcome& outcome, pid_t host_pid,
                                  proto::ProcessAttributes& attributes) const {
  const std::string process = fmt::format("/proc/{}", host_pid);
  attributes.set_personality(or_zero(outcome[personality_]));
  attributes.set_dumpable(or_zero(outcome[dumpable_]));
  const std::uint32_t thp = or_zero(outcome[thp_]);
  attributes.set_thp_disabled((thp & 1) != 0);
  attributes.set_thp_disable_flags(thp & ~1U);
  attributes.set_keep_capabilities(outcome[keep_capabilities_] == 1);
  attributes.set_memory_merge(or_zero(outcome[merge_]));
  attributes.set_deny_write_execute(or_zero(outcome[deny_write_execute_]));
  std::uint32_t barriers = 0;
  for (const auto& [row, registration] : barriers_) {
    if (outcome[row] >= 0) {
      barriers |= registration != 0 ? registration : static_cast<std::uint32_t>(outcome[row]);
    }
  }
  attributes.set_memory_barriers(barriers);
  attributes.set_child_subreaper(outcome.value<int>(subreaper_) != 0);
  if (outcome[tsc_row_] == 0) {
    attributes.set_tsc_mode(static_cast<std::uint32_t>(outcome.value<int>(tsc_)));
  }
  attributes.set_oom_score_adjust(
      parse_number<int>(trim(read_file(process + "/oom_score_adj")), "oom_score_adj"));
  attributes.set_coredump_filter(parse_number<std::uint32_t>(
      trim(read_file(process + "/coredump_filter")), "coredump_filter", 16));
  if (asked_row_ && outcome[*asked_row_] == 0) {
    const std::uint64_t permitted = outcome.value<std::uint64_t>(asked_);
    refuse_asked_state(host_pid, permitted, arch::asked_state()->components);
  }
  attributes.set_seccomp_mode(read_proc_status(host_pid).seccomp_mode);
  if (attributes.seccomp_mode() != SECCOMP_MODE_DISABLED) {
    throw Refused("seccomp-filter",
                  fmt::format("process {} runs under seccomp, which cannot be rebuilt", host_pid),
                  kSeccompWayOut);
  }
}

void refuse_asked_state(pid_t host_pid, std::uint64_t permitted, std::uint64_t asked) {
  const std::uint64_t had = permitted & asked;
  if (had == 0) return;
  std::string names;
  for (std::uint32_t number = 0; number < 64; ++number) {
    if ((had >> number & 1) == 0) continue;
    const std::string name = arch::vector_component_name(number);
    names += names.empty() ? "" : ", ";
    names += name.empty() ? fmt::format("component {}", number) : name;
  }
  throw Refused(
      "asked-register-state",
      fmt::format("process {} asked for register state ({}) that it cannot be given again "
                  "elsewhere",
                  host_pid, names),
      "start the program without it: most that use AMX have a setting for it, "
      "ONEDNN_MAX_CPU_ISA=AVX512_CORE_BF16 for those that compute with oneDNN");
}

proto::ProcessAttributes capture_process_attributes(CaptureContext& context) {
  SyscallBatch batch;
  const ProcessAttributesQuery query(batch);
  proto::ProcessAttributes attributes;
  query.read(context.task.run(batch), context.host_pid, attributes);
  return attributes;
}

void preflight_process_attributes(pid_t host_pid, Findings& findings) {
  for (const pid_t tid : list_threads(host_pid)) {
    const auto status = try_read_proc_status(fmt::format("/proc/{}/task/{}", host_pid, tid));
    if (!status || status->seccomp_mode == SECCOMP_MODE_DISABLED) continue;
    const bool strict = status->seccomp_mode == SECCOMP_MODE_STRICT;
    refuse(findings, strict ? "seccomp-strict" : "seccomp-filter", fmt::format("thread {}", tid),
           strict ? "it runs under seccomp's strict mode" : "it runs under a seccomp filter",
           kSeccompWayOut);
    return;  // filters are the same in nearly all threads: named once
  }
}

}  // namespace godwit
