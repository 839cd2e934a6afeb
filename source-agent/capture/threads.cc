#include "source-agent/capture/threads.h"

#include <linux/capability.h>
#include <linux/kcmp.h>
#include <linux/prctl.h>
#include <sched.h>
#include <sys/syscall.h>

#include <csignal>
#include <cstring>
#include <thread>

#include "common/base/unique_fd.h"
#include "common/kernel/proc_stat.h"
#include "common/kernel/proc_status.h"
#include "common/kernel/processors.h"
#include "source-agent/capture/signals.h"

namespace godwit {
namespace {

constexpr int kGetTidAddress = 40;  // PR_GET_TID_ADDRESS
constexpr std::size_t kSignalSetBytes = 8;
constexpr int kOnStack = 1;  // SS_ONSTACK: where the stack pointer was, not a setting

struct KernelStack {
  std::uint64_t address;
  std::int32_t flags;
  std::uint64_t bytes;
};

// The slice that a task has which never asked for one.
std::uint64_t ordinary_slice_ns() {
  // A new thread of ours has it, whatever this one asked for.
  static const std::uint64_t slice_ns = [] {
    std::uint64_t found_ns = 0;
    std::thread([&] {
      SchedulingAttributes attributes;
      attributes.policy = SCHED_OTHER;
      if (::syscall(SYS_sched_setattr, 0, &attributes, 0) != 0) return;
      if (::syscall(SYS_sched_getattr, 0, &attributes, sizeof(attributes), 0) != 0) return;
      found_ns = attributes.runtime_ns;
    }).join();
    return found_ns;
  }();
  return slice_ns;
}

}  // namespace

ThreadQuery::ThreadQuery(SyscallBatch& batch)
    : alternate_stack_(batch.reserve(sizeof(KernelStack))),
      tid_address_(batch.reserve(8)),
      death_signal_(batch.reserve(sizeof(int))),
      name_(batch.reserve(kNameBytes)),
      robust_head_(batch.reserve(8)),
      robust_bytes_(batch.reserve(8)),
      attributes_(batch.reserve(sizeof(SchedulingAttributes))),
      cpus_(batch.reserve(kCpuBytes)),
      pending_(batch.reserve(kSignalSetBytes)),
      uids_(batch.reserve(3 * sizeof(std::uint32_t))),
      gids_(batch.reserve(3 * sizeof(std::uint32_t))),
      capabilities_(batch.reserve(2 * sizeof(__user_cap_data_struct))) {
  const __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  const DataAt capability_header = batch.put_value(header);
  tid_ = batch.add(SYS_gettid, {});
  batch.add(SYS_sigaltstack, {0, alternate_stack_});
  batch.add(SYS_prctl, {kGetTidAddress, tid_address_, 0, 0, 0}, "set_tid_address");
  batch.add(SYS_prctl, {PR_GET_PDEATHSIG, death_signal_, 0, 0, 0}, "parent-death signal");
  timer_slack_ = batch.add(SYS_prctl, {PR_GET_TIMERSLACK, 0, 0, 0, 0}, "timer slack");
  batch.add(SYS_prctl, {PR_GET_NAME, name_, 0, 0, 0}, "name");
  batch.add(SYS_get_robust_list, {0, robust_head_, robust_bytes_});
  batch.add(SYS_sched_getattr, {0, attributes_, sizeof(SchedulingAttributes), 0});
  io_priority_ = batch.add(SYS_ioprio_get, {kIoPriorityOfThread, 0});
  cpus_row_ = batch.add(SYS_sched_getaffinity, {0, kCpuBytes, cpus_});
  batch.add(SYS_rt_sigpending, {pending_, kSignalSetBytes});
  batch.add(SYS_getresuid, {uids_, uids_ + 4, uids_ + 8});
  batch.add(SYS_getresgid, {gids_, gids_ + 4, gids_ + 8});
  batch.add(SYS_capget, {capability_header, capabilities_});
  no_new_privileges_ = batch.add(SYS_prctl, {PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0});
  seccomp_ = batch.add_may_fail(SYS_prctl, {PR_GET_SECCOMP, 0, 0, 0, 0});
}

void ThreadQuery::read(const BatchOutcome& outcome, std::uint64_t shared_pending,
                       const Tracee& tracee, proto::Thread& thread) const {
  thread.set_tid(static_cast<std::int32_t>(outcome[tid_]));
  const auto stack = outcome.value<KernelStack>(alternate_stack_);
  thread.mutable_alternate_stack()->set_address(stack.address);
  thread.mutable_alternate_stack()->set_bytes(stack.bytes);
  thread.mutable_alternate_stack()->set_flags(stack.flags & ~kOnStack);
  thread.set_clear_child_tid(outcome.value<std::uint64_t>(tid_address_));
  thread.set_parent_death_signal(outcome.value<int>(death_signal_));
  thread.set_timer_slack_ns(static_cast<std::uint64_t>(outcome[timer_slack_]));
  const auto name = outcome.bytes(name_, kNameBytes);
  const char* text = reinterpret_cast<const char*>(name.data());
  thread.set_comm(std::string(text, ::strnlen(text, kNameBytes)));
  thread.set_robust_list(outcome.value<std::uint64_t>(robust_head_));
  thread.set_robust_list_bytes(outcome.value<std::uint64_t>(robust_bytes_));
  read_scheduling(outcome, *thread.mutable_scheduling());
  // All signals are blocked while a batch runs, so this is the thread's set and the process's.
  auto pending = outcome.value<std::uint64_t>(pending_) & ~shared_pending;
  const std::vector<siginfo_t> queued = tracee.pending_signals(false);
  for (const siginfo_t& info : queued) pending &= ~(std::uint64_t{1} << (info.si_signo - 1));
  // Not on the thread's queue: either the kernel had no room, or it came to the process meanwhile.
  if (pending != 0) {
    const auto status = try_read_proc_status(fmt::format("/proc/{}", tracee.tid()));
    pending = status ? status->pending_private : 0;
  }
  for (auto& signal : describe_pending(queued, pending)) {
    *thread.add_pending() = std::move(signal);
  }
}

void ThreadQuery::read_scheduling(const BatchOutcome& outcome,
                                  proto::Scheduling& scheduling) const {
  const auto attributes = outcome.value<SchedulingAttributes>(attributes_);
  scheduling.set_policy(attributes.policy);
  scheduling.set_nice(attributes.nice);
  scheduling.set_priority(attributes.priority);
  scheduling.set_flags(attributes.flags);
  const bool deadline = attributes.policy == SCHED_DEADLINE;
  if (deadline || attributes.runtime_ns != ordinary_slice_ns()) {
    scheduling.set_runtime_ns(attributes.runtime_ns);
  }
  scheduling.set_deadline_ns(attributes.deadline_ns);
  scheduling.set_period_ns(attributes.period_ns);
  scheduling.set_io_priority(static_cast<std::int32_t>(outcome[io_priority_]));
  const auto bytes = static_cast<std::size_t>(outcome[cpus_row_]);
  const auto cpus = processors_of_mask(outcome.bytes(cpus_, bytes));
  // All of them: the thread is free to run anywhere, which is what it should be elsewhere too.
  static const std::vector<std::uint32_t> online = online_processors();
  if (cpus == online) return;
  for (const std::uint32_t cpu : cpus) scheduling.add_cpus(cpu);
}

std::string ThreadQuery::identity(const BatchOutcome& outcome) const {
  std::string text;
  const auto append = [&](DataAt at, std::size_t size) {
    const auto bytes = outcome.bytes(at, size);
    text.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  };
  append(uids_, 3 * sizeof(std::uint32_t));
  append(gids_, 3 * sizeof(std::uint32_t));
  append(capabilities_, 2 * sizeof(__user_cap_data_struct));
  text += fmt::format("{} {}", outcome[no_new_privileges_], outcome[seccomp_]);
  return text;
}

namespace {

bool all_zero(std::span<const std::byte> bytes) {
  return bytes.empty() || (bytes[0] == std::byte{0} &&
                           std::memcmp(bytes.data(), bytes.data() + 1, bytes.size() - 1) == 0);
}

// Most of the vector state belongs to registers that the thread never used.
std::size_t bytes_before_zeros(const std::vector<std::byte>& bytes) {
  std::size_t size = bytes.size();
  while (size > 0 && bytes[size - 1] == std::byte{0}) --size;
  return size;
}

bool same_bytes(std::span<const std::byte> bytes, const std::string& text) {
  return bytes.size() == text.size() && std::memcmp(bytes.data(), text.data(), text.size()) == 0;
}

bool same_further_registers(const Tracee& tracee, const proto::Thread& before) {
  int seen = 0;
  for (const int note : arch::further_notes()) {
    const auto now = tracee.further_regset(note);
    if (!now) continue;
    if (seen == before.further_registers_size()) return false;
    const proto::RegisterSet& known = before.further_registers(seen++);
    if (known.note() != static_cast<std::uint32_t>(note) || !same_bytes(*now, known.content())) {
      return false;
    }
  }
  return seen == before.further_registers_size();
}

void read_further_registers(const Tracee& tracee, proto::Thread& thread) {
  thread.clear_further_registers();
  for (const int note : arch::further_notes()) {
    const auto content = tracee.further_regset(note);
    if (!content) continue;
    proto::RegisterSet& set = *thread.add_further_registers();
    set.set_note(static_cast<std::uint32_t>(note));
    set.set_content(content->data(), content->size());
  }
}

// The thread stands where it stood, to the last bit of its registers: in the same call, or in the
// same one again.
bool stands_still(const Tracee& tracee, const proto::Thread& before,
                  std::span<std::byte> vector_memory) {
  if (before.has_blocked_call() || before.pending_size() != 0 ||
      tracee.signal_mask() != before.signal_mask()) {
    return false;
  }
  std::optional<arch::InterruptedCall> interrupted;
  const arch::Registers registers = tracee.portable_registers(&interrupted);
  if (interrupted ||
      !same_bytes(std::as_bytes(std::span(&registers.raw, 1)), before.general_registers())) {
    return false;
  }
  const auto vectors = tracee.vector_state(vector_memory);
  const std::size_t used = before.vector_registers().size();
  return vectors.size() == before.vector_bytes() &&
         same_bytes(vectors.first(used), before.vector_registers()) &&
         all_zero(vectors.subspan(used)) && same_further_registers(tracee, before) &&
         tracee.pending_signals(false).empty();
}

void read_rseq(const Tracee& tracee, proto::Thread& thread) {
  thread.clear_rseq();
  const auto rseq = tracee.rseq();
  if (!rseq || rseq->address == 0) return;
  thread.mutable_rseq()->set_address(rseq->address);
  thread.mutable_rseq()->set_bytes(rseq->bytes);
  thread.mutable_rseq()->set_signature(rseq->signature);
  thread.mutable_rseq()->set_flags(rseq->flags);
}

// What ptrace tells.
void read_by_ptrace(CaptureContext& context, Tracee& tracee, const BlockedCallWatch& watch,
                    proto::Thread& thread) {
  thread.set_host_tid(tracee.tid());
  std::optional<arch::InterruptedCall> interrupted;
  arch::Registers registers = tracee.portable_registers(&interrupted);
  thread.clear_blocked_call();
  if (interrupted) {
    *thread.mutable_blocked_call() =
        describe_blocked_call(context.task, tracee, *interrupted, registers, watch);
  }
  thread.set_general_registers(&registers.raw, sizeof(registers.raw));
  const auto vector_state = tracee.vector_state();
  thread.set_vector_bytes(static_cast<std::uint32_t>(vector_state.size()));
  thread.set_vector_registers(vector_state.data(), bytes_before_zeros(vector_state));
  read_further_registers(tracee, thread);
  thread.set_signal_mask(tracee.signal_mask());
  read_rseq(tracee, thread);
}

// What only a batch tells, by name; empty: the same.
std::string difference_of_threads(const proto::Thread& known, const proto::Thread& now) {
  const auto differ = [](const auto& a, const auto& b) {
    return a.SerializeAsString() != b.SerializeAsString();
  };
  if (differ(known.alternate_stack(), now.alternate_stack())) return "alternate stack";
  if (differ(known.scheduling(), now.scheduling())) return "scheduling";
  if (known.comm() != now.comm()) return "name";
  if (known.robust_list() != now.robust_list()) return "robust list";
  if (known.clear_child_tid() != now.clear_child_tid()) return "address for set_tid_address";
  if (known.parent_death_signal() != now.parent_death_signal()) return "parent-death signal";
  if (known.timer_slack_ns() != now.timer_slack_ns()) return "timer slack";
  if (differ(known.rseq(), now.rseq())) return "rseq area";
  return {};
}

}  // namespace

std::vector<proto::Thread> capture_threads(CaptureContext& context, const BlockedCallWatch& watch) {
  return capture_threads_again(context, watch, {});
}

std::vector<proto::Thread> capture_threads_again(CaptureContext& context,
                                                 const BlockedCallWatch& watch,
                                                 const KnownThreads& known) {
  const std::uint64_t shared = read_proc_status(context.host_pid).pending_shared;
  SyscallBatch batch;
  const ThreadQuery query(batch);
  std::vector<std::byte> vector_memory(arch::vector_state_bytes());
  std::vector<proto::Thread> threads;
  threads.reserve(context.task.threads().size());
  std::string expected;
  for (Tracee& tracee : context.task.threads()) {
    if (tracee.gone()) continue;
    proto::Thread& thread = threads.emplace_back();
    const auto before = known.find(tracee.tid());
    if (before != known.end() && stands_still(tracee, before->second.thread, vector_memory)) {
      thread.set_tid(before->second.thread.tid());
      thread.set_host_tid(tracee.tid());
      thread.set_as_before(true);
      continue;
    }
    if (before != known.end()) {
      thread = before->second.thread;
      thread.clear_pending();
      for (auto& signal : describe_pending(tracee.pending_signals(false), 0)) {
        *thread.add_pending() = std::move(signal);
      }
      read_by_ptrace(context, tracee, watch, thread);
      continue;
    }
    const BatchOutcome outcome = context.task.run_on(tracee, batch);
    query.read(outcome, shared, tracee, thread);
    read_by_ptrace(context, tracee, watch, thread);
    const std::string identity = query.identity(outcome);
    if (expected.empty()) expected = identity;
    if (identity != expected) {
      throw Refused("thread-credentials",
                    fmt::format("thread {} has other credentials than the process's first thread",
                                tracee.tid()),
                    "give all threads the same ids, capabilities and filters");
    }
  }
  return threads;
}

void look_at_threads(CaptureContext& context, const BlockedCallWatch& watch, KnownThreads& known) {
  const std::uint64_t shared = read_proc_status(context.host_pid).pending_shared;
  SyscallBatch batch;
  const ThreadQuery query(batch);
  std::map<pid_t, ThreadWatch> watches;
  std::vector<Tracee*> all;
  for (Tracee& tracee : context.task.threads()) {
    const bool with_files = known.size() + watches.size() < ThreadWatch::watched_max();
    ThreadWatch thread_watch(context.host_pid, tracee.tid(), with_files);
    thread_watch.begin_look();
    watches.emplace(tracee.tid(), std::move(thread_watch));
    all.push_back(&tracee);
  }
  context.task.run_on_each(all, batch, [&](Tracee& tracee, const BatchOutcome& outcome) {
    KnownThread now{.thread = {},
                    .identity = query.identity(outcome),
                    .watch = std::move(watches.at(tracee.tid()))};
    query.read(outcome, shared, tracee, now.thread);
    read_by_ptrace(context, tracee, watch, now.thread);
    now.watch.end_look();
    known.insert_or_assign(tracee.tid(), std::move(now));
  });
}

namespace {

// To what is known of it; empty: none.
std::string difference_to(const ThreadAnswer& answer, const KnownThread* known) {
  return known != nullptr ? difference_of_threads(known->thread, answer.thread) : std::string();
}

}  // namespace

ThreadAnswer read_answer(const ThreadQuery& query, const BatchOutcome& outcome,
                         const Tracee& tracee) {
  ThreadAnswer answer{.thread = {}, .identity = query.identity(outcome)};
  query.read(outcome, 0, tracee, answer.thread);
  read_rseq(tracee, answer.thread);
  return answer;
}

void look_at_threads_again(CaptureContext& context, KnownThreads& known) {
  SyscallBatch batch;
  const ThreadQuery query(batch);
  std::vector<Tracee*> all;
  for (Tracee& tracee : context.task.threads()) {
    if (known.contains(tracee.tid())) all.push_back(&tracee);
  }
  context.task.run_on_each(all, batch, [&](Tracee& tracee, const BatchOutcome& outcome) {
    KnownThread& before = known.at(tracee.tid());
    const ThreadAnswer answer = read_answer(query, outcome, tracee);
    // Otherwise it is asked once more in the end, and the migration does not go on.
    if (difference_to(answer, &before).empty() && answer.identity == before.identity) {
      before.watch.end_look();
    }
  });
}

void confirm_threads(CaptureContext& context, const KnownThreads& known,
                     const std::set<pid_t>& asked, const ThreadAnswer& leader) {
  const auto known_of = [&](const Tracee& tracee) {
    const auto found = known.find(tracee.tid());
    return found != known.end() ? &found->second : nullptr;
  };
  const auto compare = [&](const Tracee& tracee, const ThreadAnswer& answer) {
    std::string difference = difference_to(answer, known_of(tracee));
    if (answer.identity != leader.identity) difference = "set of credentials";
    if (difference.empty()) return;
    throw Error(fmt::format("thread {} got another {} in the last instant before the switch",
                            tracee.tid(), difference),
                EAGAIN, "nothing is lost: begin the migration again");
  };
  SyscallBatch batch;
  const ThreadQuery query(batch);
  const pid_t leader_tid = context.task.leader().tid();
  std::vector<Tracee*> to_ask;
  for (Tracee& tracee : context.task.threads()) {
    if (tracee.gone()) continue;
    const KnownThread* before = known_of(tracee);
    if (tracee.tid() == leader_tid) {
      compare(tracee, leader);
    } else if (before == nullptr || asked.contains(tracee.tid())) {
      to_ask.push_back(&tracee);
    } else if (before->identity != leader.identity) {
      compare(tracee, {.thread = before->thread, .identity = before->identity});
    }
  }
  context.task.run_on_each(to_ask, batch, [&](Tracee& tracee, const BatchOutcome& outcome) {
    compare(tracee, read_answer(query, outcome, tracee));
  });
}

std::vector<proto::Thread> capture_threads(CaptureContext& context) {
  return capture_threads(context, BlockedCallWatch());
}

void leave_out_registers(proto::Process& process) {
  for (proto::Thread& thread : *process.mutable_threads()) {
    thread.clear_general_registers();
    thread.clear_vector_registers();
  }
}

void preflight_threads(pid_t host_pid, Findings& findings) {
  for (const pid_t tid : list_threads(host_pid)) {
    const auto status = try_read_proc_status(fmt::format("/proc/{}/task/{}", host_pid, tid));
    if (!status || tid == host_pid) continue;
    const std::string object = fmt::format("thread {}", tid);
    if (status->tracer != 0) {
      refuse(findings, "thread-traced", object, fmt::format("process {} traces it", status->tracer),
             "end the tracer");
    }
    if (::syscall(SYS_kcmp, host_pid, tid, KCMP_FILES, 0, 0) > 0 && !is_ending(tid)) {
      refuse(findings, "descriptors-unshared", object,
             "it has a descriptor table of its own (unshare(CLONE_FILES))",
             "let the threads share their descriptors");
    }
  }
}

}  // namespace godwit
