#include "dest-agent/skeleton.h"

#include <fcntl.h>
#include <limits.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "common/base/clock.h"
#include "common/base/error.h"
#include "common/base/unique_fd.h"
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

constexpr std::uint64_t kPagePresent = 1ULL << 63;  // in a word of /proc/PID/pagemap
// linux/rseq.h: rseq_cs, and what the kernel writes: cpu_id_start and cpu_id, node_id and mm_cid.
constexpr std::uint64_t kRseqSectionOffset = 8;
constexpr std::pair<std::size_t, std::size_t> kRseqIdFields[] = {{0, 8}, {20, 8}};

void check_process(const proto::Process& process) {
  if (process.threads_size() == 0 || process.threads(0).tid() != process.identity().pid()) {
    fail("description: the first thread of pid {} is not its leader", process.identity().pid());
  }
  if (process.identity().pid() <= 1) fail("description: pid {}", process.identity().pid());
}

using Threads = google::protobuf::RepeatedPtrField<proto::Thread>;

// Finds threads of one list in the order of another, which is nearly the same.
template <typename List>
class ThreadFinder {
 public:
  explicit ThreadFinder(List& threads) : threads_(threads) {}

  // Null: it is not there.
  auto* find(pid_t tid) {
    for (int i = 0; i < threads_.size(); ++i) {
      auto& thread = threads_[(next_ + i) % threads_.size()];
      if (thread.tid() != tid) continue;
      next_ = (next_ + i + 1) % threads_.size();
      return &thread;
    }
    return static_cast<decltype(&threads_[0])>(nullptr);
  }

 private:
  List& threads_;
  int next_ = 0;
};

// The kernel marks what a thread that ends had locked. In the memory of a copy nobody sees that.
bool shares_writable_files(const proto::Mappings& mappings) {
  return std::ranges::any_of(mappings.areas(), [](const proto::Mapping& area) {
    return area.shared() && area.backing() == proto::BACKING_FILE && area.file_opened_writable();
  });
}

// A part of a description, which keeps the whole.
template <typename Part>
std::shared_ptr<const Part> part(const std::shared_ptr<proto::Process>& whole, const Part& what) {
  return {whole, &what};
}

}  // namespace

Skeleton::Skeleton(Nursery& nursery, std::shared_ptr<proto::Process> wanted, int agent_pidfd,
                   std::span<const std::byte> source_vdso)
    : task_((check_process(*wanted), nursery.clone_skeleton(wanted->identity().pid()))),
      host_pid_(task_.host_pid()),
      mappings_(task_, agent_pidfd),
      fd_table_(task_, agent_pidfd),
      processors_(online_processors()),
      capabilities_(capabilities_here()),
      have_(std::make_shared<proto::Process>()) {
  begin();
  const proto::Process& want = *wanted;
  in_context([&] { mappings_.build(part(wanted, want.mappings()), source_vdso); },
             "building the address space");
  reconcile_threads(want.threads());
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
  end_missing_threads(want.threads());
  mappings_.set_agent_pidfd(fd_table_.agent_pidfd());
  in_context([&] { mappings_.reconcile(part(wanted, want.mappings())); },
             "changing the address space");
  reconcile_threads(want.threads());
  in_context([&] { fd_table_.build(part(wanted, want.fd_table())); }, "changing descriptors");
  reconcile_state(want);
  have_ = std::move(wanted);
}

void Skeleton::cut_over_areas(const std::shared_ptr<proto::Process>& want, bool same_areas) {
  cut_over_began_ns_ = monotonic_ns();
  check_follows(*want);
  fill_in(*want->mutable_threads());
  end_missing_threads(want->threads());
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
  reconcile_threads(want.threads());
  mark("dest_threads");
  in_context([&] { fd_table_.cut_over(part(wanted, want.fd_table())); }, "descriptors");
  mark("dest_descriptors");
  reconcile_state(want);
  kept_ = std::exchange(have_, std::move(wanted));
  mark("dest_state");
}

Skeleton::Made& Skeleton::made(const proto::Thread& thread) {
  const auto found = made_.find(thread.tid());
  if (found == made_.end()) fail("thread {} was never made", thread.tid());
  return found->second;
}

Tracee& Skeleton::tracee_of(const proto::Thread& thread) {
  Made& of = made(thread);
  std::vector<Tracee>& tracees = task_.threads();
  if (of.index >= tracees.size() || tracees[of.index].tid() != of.host_tid) {
    of.index = static_cast<std::size_t>(&task_.thread_by_host_tid(of.host_tid) - tracees.data());
  }
  return tracees[of.index];
}

// Before areas go: the kernel writes to a thread's memory as long as it lives.
void Skeleton::end_missing_threads(const Threads& want) {
  ThreadFinder finder(want);
  for (const proto::Thread& thread : have_->threads()) {
    if (finder.find(thread.tid()) != nullptr) continue;
    SyscallBatch batch;
    if (made(thread).done) plan_thread_end(thread, batch);
    task_.end_thread(made(thread).host_tid, batch);
    made_.erase(thread.tid());
  }
}

// Those that are as before, from there.
void Skeleton::fill_in(Threads& threads) const {
  ThreadFinder finder(*have_->mutable_threads());
  for (proto::Thread& thread : threads) {
    if (!thread.as_before()) continue;
    proto::Thread* before = finder.find(thread.tid());
    if (before == nullptr || before->as_before()) fail("thread {} is not known", thread.tid());
    thread.Swap(before);
  }
}

void Skeleton::reconcile_threads(const Threads& want) {
  ThreadFinder finder(have_->threads());
  for (const proto::Thread& thread : want) {
    const proto::Thread* before = finder.find(thread.tid());
    if (before != nullptr && before->as_before()) continue;
    in_context(
        [&] {
          SyscallBatch batch;
          if (before != nullptr && made_.contains(thread.tid())) {
            made(thread).moved = true;
            plan_thread(*before, thread, processors_, batch);
          } else {
            const bool leader = made_.empty();
            made_[thread.tid()].host_tid =
                leader ? task_.host_pid() : task_.clone_thread(thread.tid()).tid();
            plan_new_thread(thread, processors_, batch);
          }
          if (!batch.empty()) task_.run_on(tracee_of(thread), batch);
        },
        "thread {}", thread.tid());
  }
}

// The kernel writes to the rseq area whenever the thread runs: its page must be there, and nothing
// in it may lead to others.
bool Skeleton::can_be_done(const proto::Thread& thread, int pagemap) const {
  if (thread.rseq().address() == 0) return true;
  std::uint64_t page = 0;
  const auto at = static_cast<off_t>(thread.rseq().address() / kPageSize * sizeof(page));
  if (::pread(pagemap, &page, sizeof(page), at) != sizeof(page)) return false;
  if ((page & kPagePresent) == 0) return false;
  return task_.read_value<std::uint64_t>(thread.rseq().address() + kRseqSectionOffset) == 0;
}

void Skeleton::finish_thread(const proto::Thread& want) {
  Tracee& tracee = tracee_of(want);
  SyscallBatch batch;
  plan_last_of(want, batch);
  task_.run_on(tracee, batch);
  Made& of = made(want);
  of.done = true;
  if (needs_resumed_call(want)) return;
  apply_thread_registers(tracee, want);
  task_.settle(tracee);
  of.moved = false;
  if (want.rseq().address() == 0) return;
  of.rseq_at = want.rseq().address();
  of.rseq = task_.read_value<RseqIds>(of.rseq_at);
}

// Pages that came since brought the numbers of processors there. A kernel that remembers what it
// wrote would not correct them.
void Skeleton::restore_rseq_ids() {
  std::vector<iovec> here;
  std::vector<iovec> there;
  for (auto& [tid, of] : made_) {
    if (of.moved || of.rseq_at == 0) continue;
    for (const auto& [offset, bytes] : kRseqIdFields) {
      here.push_back({reinterpret_cast<std::byte*>(&of.rseq) + offset, bytes});
      there.push_back({reinterpret_cast<void*>(of.rseq_at + offset), bytes});
    }
  }
  for (std::size_t at = 0; at < here.size(); at += IOV_MAX) {
    const std::size_t count = std::min<std::size_t>(here.size() - at, IOV_MAX);
    if (::process_vm_writev(host_pid_, &here[at], count, &there[at], count, 0) < 0) {
      throw_system("write rseq areas of process {}", host_pid_);
    }
  }
}

void Skeleton::brace(Threads& threads) {
  end_missing_threads(threads);
  reconcile_threads(threads);
  const bool alone = !shares_writable_files(have_->mappings());
  const UniqueFd pagemap = open_file(fmt::format("/proc/{}/pagemap", host_pid_), O_RDONLY);
  for (const proto::Thread& thread : threads) {
    if (!alone || is_leader(thread) || !can_be_done(thread, pagemap.get())) continue;
    in_context([&] { finish_thread(thread); }, "thread {}", thread.tid());
  }
  have_->mutable_threads()->Swap(&threads);
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

// What a thread gets last, whatever it waits for; then it has no privileges any more.
void Skeleton::plan_last_of(const proto::Thread& want, SyscallBatch& batch) const {
  plan_tsc_mode(have_->attributes(), batch);
  plan_credentials(capabilities_, have_->credentials(), batch);
  if (is_leader(want)) plan_process_attributes_last(have_->attributes(), batch);
  plan_thread_last(want, batch);
}

void Skeleton::complete_thread(const proto::Thread& want) {
  SyscallBatch batch;
  const pid_t pid = have_->identity().pid();
  plan_pending(pid, want.tid(), want.pending(), batch);
  if (is_leader(want)) {
    plan_shared_pending(have_->signals(), pid, batch);
    plan_timers_armed(have_->timers(), waiting_timers_, monotonic_ns() - cut_over_began_ns_, batch);
    plan_filesystem_context(filesystem_context_here(), have_->filesystem_context(), batch);
    plan_rlimits(rlimits_here(), have_->rlimits(), may_raise_hard_limits(), batch);
  }
  if (!made(want).done) plan_last_of(want, batch);
  if (!batch.empty()) task_.run_on(tracee_of(want), batch);
}

void Skeleton::set_registers(const proto::Thread& want) {
  if (!made(want).moved) return;
  Tracee& tracee = tracee_of(want);
  apply_thread_registers(tracee, want);
  if (needs_resumed_call(want)) {
    resume_blocked_call(task_, tracee, want, monotonic_ns() - cut_over_began_ns_);
  }
}

void Skeleton::complete() {
  in_context([&] { mappings_.finish(); }, "finishing the address space");
  fd_table_.finish();
  waiting_timers_ = find_waiting_timers(task_, *have_, cut_over_began_ns_);
  remove_signals_of(waiting_timers_, *have_);
  restore_rseq_ids();
  // The leader last: it arms what can send signals.
  for (int index = have_->threads_size() - 1; index >= 0; --index) {
    const proto::Thread& thread = have_->threads(index);
    if (made(thread).done && thread.pending().empty() && !is_leader(thread)) continue;
    in_context([&] { complete_thread(thread); }, "thread {}", thread.tid());
  }
  for (const proto::Thread& thread : have_->threads()) {
    in_context([&] { set_registers(thread); }, "thread {}", thread.tid());
  }
}

void Skeleton::clear() { task_.leave_home(mappings_.vdso()); }

void Skeleton::let_live() { task_.let_live(); }

void Skeleton::release() {
  task_.leader().detach();
  for (const proto::Thread& thread : have_->threads()) {
    if (made(thread).moved) tracee_of(thread).detach();
  }
  task_.detach();
}

}  // namespace godwit
