#include "dest-agent/restore/threads.h"

#include <linux/prctl.h>
#include <sched.h>
#include <sys/syscall.h>

#include <algorithm>
#include <csignal>
#include <cstring>

#include "common/base/log.h"
#include "common/kernel/processors.h"

namespace godwit {
namespace {

constexpr std::uint32_t kRseqUnregister = 1;  // RSEQ_FLAG_UNREGISTER
constexpr std::size_t kNameBytes = 16;
constexpr char kOtherProcessor[] = "choose a host whose processor has them";

struct KernelStack {
  std::uint64_t address = 0;
  std::int32_t flags = 0;
  std::uint64_t bytes = 0;
};

std::string name_of(const proto::Thread& thread) { return fmt::format("thread {}", thread.tid()); }

template <typename Message>
bool same(const Message& left, const Message& right) {
  return left.SerializeAsString() == right.SerializeAsString();
}

bool has_timer_slack(const proto::Scheduling& scheduling) {
  // Real-time and deadline threads have none, and asking for one is ignored.
  return scheduling.policy() != SCHED_FIFO && scheduling.policy() != SCHED_RR &&
         scheduling.policy() != SCHED_DEADLINE;
}

void set_stack(const proto::Thread& want, SyscallBatch& batch) {
  KernelStack stack;
  stack.address = want.alternate_stack().address();
  stack.flags = want.alternate_stack().flags();
  stack.bytes = want.alternate_stack().bytes();
  batch.add(SYS_sigaltstack, {batch.put_value(stack), 0}, name_of(want) + ", alternate stack");
}

void set_name(const proto::Thread& want, SyscallBatch& batch) {
  batch.add(SYS_prctl,
            {PR_SET_NAME, batch.put_string(want.comm().substr(0, kNameBytes - 1)), 0, 0, 0},
            name_of(want) + ", name");
}

void set_policy(const proto::Thread& want, SyscallBatch& batch) {
  const proto::Scheduling& scheduling = want.scheduling();
  SchedulingAttributes attributes;
  attributes.policy = scheduling.policy();
  attributes.flags = scheduling.flags();
  attributes.nice = scheduling.nice();
  attributes.priority = scheduling.priority();
  attributes.runtime_ns = scheduling.runtime_ns();
  attributes.deadline_ns = scheduling.deadline_ns();
  attributes.period_ns = scheduling.period_ns();
  batch.add(SYS_sched_setattr, {0, batch.put_value(attributes), 0},
            fmt::format("{}, scheduling policy {}", name_of(want), scheduling.policy()));
}

std::vector<std::byte> vector_state_of(const proto::Thread& want) {
  std::vector<std::byte> state(
      std::max<std::size_t>(want.vector_bytes(), want.vector_registers().size()));
  std::memcpy(state.data(), want.vector_registers().data(), want.vector_registers().size());
  return state;
}

std::string lost_registers(const std::vector<std::string>& lost) {
  return fmt::format("it has registers in use that the destination's processor lacks: {}",
                     fmt::join(lost, ", "));
}

// The wanted processors that are here. None wanted: the thread was never bound to any.
std::vector<std::uint32_t> reachable(const proto::Scheduling& want,
                                     const std::vector<std::uint32_t>& online) {
  std::vector<std::uint32_t> cpus;
  for (const std::uint32_t cpu : want.cpus()) {
    if (std::binary_search(online.begin(), online.end(), cpu)) cpus.push_back(cpu);
  }
  return cpus.empty() ? online : cpus;
}

void set_affinity(const proto::Thread& want, const std::vector<std::uint32_t>& online,
                  SyscallBatch& batch) {
  const auto cpus = reachable(want.scheduling(), online);
  const auto wanted = static_cast<std::size_t>(want.scheduling().cpus_size());
  if (wanted != 0 && cpus.size() != wanted) {
    log_warning("thread={} affinity: {} of its {} processors are here", want.tid(), cpus.size(),
                wanted);
  }
  const auto mask = mask_of_processors(cpus);
  batch.add(SYS_sched_setaffinity, {0, mask.size(), batch.put(mask)}, name_of(want) + ", affinity");
}

bool same_policy(const proto::Scheduling& left, const proto::Scheduling& right) {
  return left.policy() == right.policy() && left.nice() == right.nice() &&
         left.priority() == right.priority() && left.flags() == right.flags() &&
         left.runtime_ns() == right.runtime_ns() && left.deadline_ns() == right.deadline_ns() &&
         left.period_ns() == right.period_ns();
}

// `have` null: nothing is known.
void plan(const proto::Thread* have, const proto::Thread& want,
          const std::vector<std::uint32_t>& online, SyscallBatch& batch) {
  const proto::Scheduling& scheduling = want.scheduling();
  if (have == nullptr || !same(have->alternate_stack(), want.alternate_stack())) {
    set_stack(want, batch);
  }
  if (have == nullptr || have->comm() != want.comm()) set_name(want, batch);
  // Processors first: a thread with a deadline may not be bound to some of them any more.
  if (have == nullptr ||
      !std::equal(have->scheduling().cpus().begin(), have->scheduling().cpus().end(),
                  scheduling.cpus().begin(), scheduling.cpus().end())) {
    set_affinity(want, online, batch);
  }
  if (have == nullptr || !same_policy(have->scheduling(), scheduling)) set_policy(want, batch);
  if (have == nullptr || have->scheduling().io_priority() != scheduling.io_priority()) {
    batch.add(SYS_ioprio_set, {kIoPriorityOfThread, 0, scheduling.io_priority()},
              fmt::format("{}, I/O priority {}", name_of(want), scheduling.io_priority()));
  }
  if ((have == nullptr || have->timer_slack_ns() != want.timer_slack_ns()) &&
      has_timer_slack(scheduling)) {
    batch.add(SYS_prctl, {PR_SET_TIMERSLACK, want.timer_slack_ns(), 0, 0, 0},
              name_of(want) + ", timer slack");
  }
}

}  // namespace

void plan_new_thread(const proto::Thread& want, const std::vector<std::uint32_t>& online,
                     SyscallBatch& batch) {
  plan(nullptr, want, online, batch);
}

void plan_thread(const proto::Thread& have, const proto::Thread& want,
                 const std::vector<std::uint32_t>& online, SyscallBatch& batch) {
  plan(&have, want, online, batch);
}

void plan_rseq_removal(const std::optional<RseqConfiguration>& have, SyscallBatch& batch) {
  if (!have || have->address == 0) return;
  batch.add(SYS_rseq, {have->address, have->bytes, kRseqUnregister, have->signature}, "rseq");
}

void plan_thread_last(const proto::Thread& want, SyscallBatch& batch) {
  // The kernel writes to both when a thread ends. One that is ended while the process is built,
  // because the original ended there, must not write into memory that is another thread's by now.
  if (want.robust_list_bytes() != 0) {
    batch.add(SYS_set_robust_list, {want.robust_list(), want.robust_list_bytes()},
              name_of(want) + ", robust list");
  }
  batch.add(SYS_set_tid_address, {want.clear_child_tid()}, name_of(want));
  if (want.parent_death_signal() != 0) {
    batch.add(SYS_prctl, {PR_SET_PDEATHSIG, want.parent_death_signal(), 0, 0, 0},
              name_of(want) + ", parent-death signal");
  }
  if (want.rseq().address() != 0) {
    batch.add(
        SYS_rseq,
        {want.rseq().address(), want.rseq().bytes(), want.rseq().flags(), want.rseq().signature()},
        name_of(want) + ", rseq");
  }
}

void plan_thread_end(const proto::Thread& have, SyscallBatch& batch) {
  if (have.rseq().address() != 0) {
    batch.add(
        SYS_rseq,
        {have.rseq().address(), have.rseq().bytes(), kRseqUnregister, have.rseq().signature()},
        name_of(have) + ", rseq");
  }
  if (have.robust_list_bytes() != 0) {
    batch.add(SYS_set_robust_list, {0, have.robust_list_bytes()}, name_of(have) + ", robust list");
  }
  batch.add(SYS_set_tid_address, {0}, name_of(have));
}

void apply_thread_registers(Tracee& tracee, const proto::Thread& want) {
  arch::Registers registers = tracee.registers();
  if (want.general_registers().size() != sizeof(registers.raw)) {
    fail("{}: {} bytes of general registers, expected {}", name_of(want),
         want.general_registers().size(), sizeof(registers.raw));
  }
  std::memcpy(&registers.raw, want.general_registers().data(), sizeof(registers.raw));
  std::vector<std::byte> vector_state = vector_state_of(want);
  if (const auto lost = arch::fit_vector_state(vector_state); !lost.empty()) {
    throw Error(fmt::format("{}: {}", name_of(want), lost_registers(lost)))
        .with_hint(kOtherProcessor);
  }
  in_context(
      [&] {
        tracee.set_vector_state(vector_state);
        for (const proto::RegisterSet& set : want.further_registers()) {
          tracee.set_further_regset(static_cast<int>(set.note()),
                                    std::as_bytes(std::span(set.content())));
        }
        tracee.set_signal_mask(want.signal_mask());
        tracee.set_registers(registers);
      },
      "{}", name_of(want));
}

void check_thread(const proto::Thread& want, const std::vector<std::uint32_t>& online,
                  Findings& findings) {
  const auto cpus = reachable(want.scheduling(), online);
  const auto wanted = static_cast<std::size_t>(want.scheduling().cpus_size());
  if (wanted != 0 && cpus.size() != wanted) {
    warn(findings, "affinity-narrowed", name_of(want),
         fmt::format("it is bound to {} processors, of which this host lacks some", wanted),
         "none is needed: it is bound to those that are here");
  }
  if (want.vector_bytes() == 0) return;  // not stopped yet
  std::vector<std::byte> state = vector_state_of(want);
  if (const auto lost = arch::fit_vector_state(state); !lost.empty()) {
    refuse(findings, "vector-state", name_of(want), lost_registers(lost), kOtherProcessor);
  }
}

}  // namespace godwit
