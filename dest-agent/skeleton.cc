#include "dest-agent/skeleton.h"

#include <sys/syscall.h>

#include <algorithm>
#include <utility>

#include "common/base/clock.h"
#include "common/base/error.h"
#include "common/kernel/proc_status.h"
#include "common/kernel/processors.h"
#include "dest-agent/restore/blocked_calls.h"
#include "dest-agent/restore/filesystem_context.h"
#include "dest-agent/restore/process_attributes.h"
#include "dest-agent/restore/rlimits.h"
#include "dest-agent/restore/signals.h"
#include "dest-agent/restore/threads.h"
#include "dest-agent/restore/timers.h"

namespace godwit {
namespace {

void check_process(const proto::Process& process) {
  if (process.threads_size() == 0 || process.threads(0).tid() != process.identity().pid()) {
    fail("description: the first thread of pid {} is not its leader", process.identity().pid());
  }
  if (process.identity().pid() <= 1) fail("description: pid {}", process.identity().pid());
}

const proto::Thread* find_thread(const proto::Process& process, pid_t tid) {
  for (const proto::Thread& thread : process.threads()) {
    if (thread.tid() == tid) return &thread;
  }
  return nullptr;
}

// A part of a description, which keeps the whole.
template <typename Part>
std::shared_ptr<const Part> part(const std::shared_ptr<proto::Process>& whole, const Part& what) {
  return {whole, &what};
}

}  // namespace

Skeleton::Skeleton(Nursery& nursery, std::shared_ptr<proto::Process> wanted, int agent_pidfd)
    : task_((check_process(*wanted), nursery.clone_skeleton(wanted->identity().pid()))),
      host_pid_(task_.host_pid()),
      mappings_(task_, agent_pidfd),
      fd_table_(task_, agent_pidfd),
      processors_(online_processors()),
      capabilities_(capabilities_here()),
      have_(std::make_shared<proto::Process>()) {
  begin();
  const proto::Process& want = *wanted;
  in_context([&] { mappings_.build(part(wanted, want.mappings())); }, "building the address space");
  reconcile_threads(want);
  in_context([&] { fd_table_.build(part(wanted, want.fd_table())); }, "building descriptors");
  reconcile_state(want);
  have_ = std::move(wanted);
}

// Takes away what the process inherited from the nursery.
void Skeleton::begin() {
  SyscallBatch batch;
  batch.add_may_fail(SYS_setsid, {}, "session");
  plan_rseq_removal(task_.leader().rseq(), batch);
  plan_signal_defaults(batch);
  plan_rlimits_for_building(rlimits_here(), batch);
  task_.run(batch);
}

void Skeleton::check_follows(const proto::Process& want) const {
  check_process(want);
  if (want.identity().pid() != have_->identity().pid())
    fail("the description is of another process");
}

void Skeleton::reconcile(std::shared_ptr<proto::Process> wanted) {
  const proto::Process& want = *wanted;
  check_follows(want);
  mappings_.set_agent_pidfd(fd_table_.agent_pidfd());
  in_context([&] { mappings_.reconcile(part(wanted, want.mappings())); },
             "changing the address space");
  reconcile_threads(want);
  in_context([&] { fd_table_.build(part(wanted, want.fd_table())); }, "changing descriptors");
  reconcile_state(want);
  have_ = std::move(wanted);
}

void Skeleton::cut_over_areas(const std::shared_ptr<proto::Process>& want, bool same_areas) {
  cut_over_began_ns_ = monotonic_ns();
  check_follows(*want);
  mappings_.set_agent_pidfd(fd_table_.agent_pidfd());
  in_context(
      [&] {
        if (same_areas) return mappings_.reconcile_marks(want->mappings().marks());
        mappings_.reconcile(part(want, want->mappings()));
      },
      "changing the address space");
}

void Skeleton::cut_over(std::shared_ptr<proto::Process> wanted,
                        const std::function<void(const char*)>& mark) {
  const proto::Process& want = *wanted;
  reconcile_threads(want);
  mark("dest_threads");
  in_context([&] { fd_table_.cut_over(part(wanted, want.fd_table())); }, "descriptors");
  mark("dest_descriptors");
  reconcile_state(want);
  kept_ = std::exchange(have_, std::move(wanted));
  mark("dest_state");
}

Tracee& Skeleton::tracee_of(const proto::Thread& thread) {
  const auto host_tid = host_tids_.find(thread.tid());
  if (host_tid != host_tids_.end()) {
    for (Tracee& tracee : task_.threads()) {
      if (tracee.tid() == host_tid->second) return tracee;
    }
  }
  fail("thread {} was never made", thread.tid());
}

void Skeleton::reconcile_threads(const proto::Process& want) {
  for (const proto::Thread& thread : have_->threads()) {
    if (find_thread(want, thread.tid()) != nullptr) continue;
    task_.end_thread(tracee_of(thread).tid());
    host_tids_.erase(thread.tid());
  }
  for (const proto::Thread& thread : want.threads()) {
    in_context(
        [&] {
          const proto::Thread* before = find_thread(*have_, thread.tid());
          SyscallBatch batch;
          if (before != nullptr) {
            plan_thread(*before, thread, processors_, batch);
          } else {
            const bool leader = thread.tid() == want.identity().pid();
            host_tids_[thread.tid()] =
                leader ? task_.host_pid() : task_.clone_thread(thread.tid()).tid();
            plan_new_thread(thread, processors_, batch);
          }
          if (!batch.empty()) task_.run_on(tracee_of(thread), batch);
        },
        "thread {}", thread.tid());
  }
}

void Skeleton::reconcile_state(const proto::Process& want) {
  SyscallBatch batch;
  plan_signals(have_->signals(), want.signals(), batch);
  if (have_->threads_size() == 0) {
    plan_process_attributes(want.attributes(), batch);
    apply_process_attributes(host_pid(), want.attributes());
  } else {
    plan_process_attributes(have_->attributes(), want.attributes(), batch);
  }
  if (!batch.empty()) task_.run(batch);
  in_context([&] { restore_posix_timers(task_, have_->timers(), want.timers()); }, "timers");
}

void Skeleton::complete_thread(Tracee& tracee, const proto::Thread& want, bool leader) {
  SyscallBatch batch;
  const pid_t pid = have_->identity().pid();
  plan_pending(pid, want.tid(), want.pending(), batch);
  if (leader) {
    plan_shared_pending(have_->signals(), pid, batch);
    plan_timers_armed(have_->timers(), waiting_timers_, monotonic_ns() - cut_over_began_ns_, batch);
    plan_filesystem_context(filesystem_context_here(), have_->filesystem_context(), batch);
    plan_rlimits(rlimits_here(), have_->rlimits(), may_raise_hard_limits(), batch);
  }
  plan_tsc_mode(have_->attributes(), batch);
  plan_credentials(capabilities_, have_->credentials(), batch);
  if (leader) plan_process_attributes_last(have_->attributes(), batch);
  plan_thread_last(want, batch);
  task_.run_on(tracee, batch);
}

void Skeleton::complete() {
  in_context([&] { mappings_.finish(); }, "finishing the address space");
  fd_table_.finish();
  waiting_timers_ = find_waiting_timers(task_, *have_, cut_over_began_ns_);
  remove_signals_of(waiting_timers_, *have_);
  // The leader last: it arms what can send signals.
  for (int index = have_->threads_size() - 1; index >= 0; --index) {
    const proto::Thread& thread = have_->threads(index);
    in_context([&] { complete_thread(tracee_of(thread), thread, index == 0); }, "thread {}",
               thread.tid());
  }
  for (const proto::Thread& thread : have_->threads()) {
    in_context(
        [&] {
          Tracee& tracee = tracee_of(thread);
          apply_thread_registers(tracee, thread);
          if (needs_resumed_call(thread)) {
            resume_blocked_call(task_, tracee, thread, monotonic_ns() - cut_over_began_ns_);
          }
        },
        "thread {}", thread.tid());
  }
}

void Skeleton::clear() { task_.leave_home(mappings_.vdso()); }

void Skeleton::release() {
  task_.let_live();
  task_.detach();
}

}  // namespace godwit
