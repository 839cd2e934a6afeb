#include "common/remote/tracee.h"

#include <fmt/format.h>
#include <sched.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <memory>
#include <optional>

#include "arch/arch.h"
#include "common/base/clock.h"
#include "common/base/error.h"
#include "common/base/log.h"
#include "common/kernel/precedence.h"
#include "common/kernel/proc_status.h"
#include "common/kernel/ptrace.h"

namespace godwit {
namespace {

constexpr std::int64_t kSpinNs = 100'000;  // a stop takes some microseconds
// It is runnable and gets no processor, in the middle of a stop of all the others: a thread that is
// always last (SCHED_IDLE), or that spins on sched_yield(2), waits for seconds on a busy host.
constexpr std::int64_t kNoTurnNs = 3'000'000;
constexpr std::int64_t kStopTimeoutNs = 5'000'000'000;  // longer: it sits in the kernel
constexpr std::size_t kRegsetBytesMax = 64 << 10;
constexpr std::uint64_t kSkeletonOptions =
    PTRACE_O_EXITKILL | PTRACE_O_TRACECLONE | PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK;

// linux/rseq.h: where the thread's area points to the critical section, and the section itself.
constexpr std::uint64_t kRseqSectionOffset = 8;
struct RseqSection {
  std::uint32_t version;
  std::uint32_t flags;
  std::uint64_t start_ip;
  std::uint64_t post_commit_offset;
  std::uint64_t abort_ip;
};

}  // namespace

Tracee Tracee::seize(pid_t tid, bool kill_on_exit) {
  Tracee tracee(tid);
  tracee.options_ = kill_on_exit ? kSkeletonOptions : 0;
  if (const int code = try_ptrace_seize(tid, tracee.options_); code != 0) {
    tracee.gone_ = true;
    throw_errno(code, fmt::format("seize thread {}", tid));
  }
  return tracee;
}

Tracee Tracee::adopt(pid_t tid) {
  Tracee tracee(tid);
  tracee.options_ = kSkeletonOptions;  // inherited from the thread that made it
  return tracee;
}

Tracee::Tracee(Tracee&& other) noexcept = default;

Tracee& Tracee::operator=(Tracee&& other) noexcept {
  if (this == &other) return *this;
  std::destroy_at(this);
  return *std::construct_at(this, std::move(other));
}

Tracee::~Tracee() { let_go(); }

void Tracee::let_go() noexcept {
  if (tid() < 0 || gone_) return;
  try {
    if (!stopped_) {
      interrupt();
      wait_stopped();
    }
    if (!gone_) detach();
  } catch (const Error& error) {
    if (error.code() != ESRCH) log_warning("letting go of thread {}: {}", tid(), error.what());
  } catch (const std::exception& error) {
    log_warning("letting go of thread {}: {}", tid(), error.what());
  }
  gone_ = true;
}

void Tracee::interrupt() {
  if (!try_ptrace_interrupt(tid())) {
    // Gone, or in a stop already that wait_stopped() will find.
    log_debug("thread {} cannot be interrupted", tid());
  }
}

bool Tracee::try_wait(int flags, int* status) {
  pid_t got = 0;
  do {
    got = waitpid(tid(), status, __WALL | flags);
  } while (got < 0 && errno == EINTR);
  if (got == 0) return false;
  if (got < 0) {
    if (errno != ECHILD) throw_system("wait for thread {}", tid());
    gone_ = true;
    *status = 0;
    return true;
  }
  if (WIFSTOPPED(*status)) {
    note_stop(*status);
  } else {
    gone_ = true;
  }
  return true;
}

// waitpid(2) takes the signal of a signal-delivery-stop out of the thread: the kernel would not
// deliver it any more when we died before we let it go on. So such a stop is only looked at; and an
// event, too, since the look has told all there is.
bool Tracee::try_see_stop(int* status) {
  siginfo_t info{};
  int code = 0;
  do {
    code = waitid(P_PID, static_cast<id_t>(tid()), &info,
                  WEXITED | WSTOPPED | WNOHANG | WNOWAIT | __WALL);
  } while (code != 0 && errno == EINTR);
  if (code == 0 && info.si_pid == 0) return false;
  if (code != 0 || info.si_code != CLD_TRAPPED) return try_wait(WNOHANG, status);
  *status = info.si_status << 8 | 0x7f;  // as waitpid has it
  note_stop(*status);
  return true;
}

void Tracee::note_stop(int status) {
  stopped_ = true;
  const int event = status >> 16;
  const int signal = WSTOPSIG(status);
  in_signal_stop_ = event == 0;
  // At the entry of a call (PTRACE_O_TRACESYSGOOD) there is no signal to be delivered.
  constexpr int kCallStop = SIGTRAP | 0x80;
  stop_signal_ = in_signal_stop_ && signal != kCallStop ? signal : 0;
  if (event == PTRACE_EVENT_STOP) group_stop_signal_ = signal == SIGTRAP ? 0 : signal;
}

void Tracee::wait_stopped(std::int64_t nap_us) {
  if (stopped_ || gone_) return;
  wait_event_stop(nap_us);
  if (!gone_) show_interrupted_call();
}

bool Tracee::try_event_stop() {
  int status = 0;
  if (!try_see_stop(&status)) return false;
  if (gone_) return true;
  if (in_signal_stop_) {
    // A signal came first: it is delivered, and the stop follows before its handler's first
    // instruction. Kept back it would lose its place among others of its kind.
    interrupt();
    go(stop_signal_);
    return false;
  }
  read_own_state();
  return true;
}

bool Tracee::try_wait_stopped() {
  if (stopped_ || gone_) return true;
  if (!try_event_stop()) return false;
  if (!gone_) show_interrupted_call();
  return true;
}

void Tracee::wait_event_stop(std::int64_t nap_us) {
  if (stopped_ || gone_) return;
  std::int64_t start = monotonic_ns();
  std::int64_t pause_us = 20;
  std::optional<Precedence> precedence;
  while (!try_event_stop()) {
    if (nap_us > 0) {
      usleep(static_cast<useconds_t>(std::exchange(nap_us, 0)));
      start = monotonic_ns();  // until now it had to wait for the others
      continue;
    }
    const std::int64_t waited = monotonic_ns() - start;
    if (waited < kSpinNs) {
      sched_yield();
      continue;
    }
    if (waited > kStopTimeoutNs) throw_not_stopped();
    if (waited > kNoTurnNs && !precedence) precedence.emplace(Precedence::OfThread{tid()});
    usleep(static_cast<useconds_t>(pause_us));
    pause_us = std::min<std::int64_t>(pause_us * 2, 1000);
  }
}

void Tracee::throw_not_stopped() const {
  const auto now = try_read_proc_status(fmt::format("/proc/{}", tid()));
  const char state = now ? now->state : 'X';
  throw Error(
      fmt::format("thread {} did not stop within {} s: it is in state {}", tid(),
                  kStopTimeoutNs / 1'000'000'000, state),
      ETIMEDOUT,
      state == 'R'
          ? "it wants a processor and gets none: others take them, and its policy or nice "
            "value puts it last; give it more, or migrate when the host is less busy"
          : "it waits inside the kernel, for a disk, a network file system or a vfork child");
}

void Tracee::read_own_state() {
  own_ = ptrace_registers(tid());
  own_mask_ = ptrace_signal_mask(tid());
  borrowed_ = false;
  mask_replaced_ = false;
  own_changed_ = false;
}

void Tracee::go(int signal) {
  stopped_ = false;
  stop_signal_ = 0;
  if (!try_ptrace_continue(tid(), signal)) gone_ = true;
}

void Tracee::give_back() {
  if (!stopped_ || gone_) return;
  try {
    restore_own_state();
  } catch (const Error& error) {
    // Without us nothing but SIGKILL ends a stop: the whole process is about to end.
    if (error.code() != ESRCH) throw;
    int status = 0;
    try_wait(WNOHANG, &status);
    gone_ = true;
    stopped_ = false;
  }
}

void Tracee::restore_own_state() {
  // The mask first: between the two the thread stands in our code, whose tail needs neither.
  if (mask_replaced_) ptrace_set_signal_mask(tid(), own_mask_);
  mask_replaced_ = false;
  if (borrowed_) ptrace_set_registers(tid(), own_);
  borrowed_ = false;
  for (const auto& [note, content] : lost_regsets_) ptrace_set_regset(tid(), note, content);
  lost_regsets_.clear();
  if ((options_ & PTRACE_O_SUSPEND_SECCOMP) != 0) {
    options_ &= ~static_cast<std::uint64_t>(PTRACE_O_SUSPEND_SECCOMP);
    try_ptrace_set_options(tid(), options_);
  }
  if (taken_signals_.empty()) return;
  // The stop we are in is a signal-delivery-stop: it can carry one signal, with all it knows. Of
  // the two numbers that can get here the other is SIGSTOP, whose origin nobody sees.
  for (const siginfo_t& taken : taken_signals_) {
    if (in_signal_stop_ && &taken == &taken_signals_.front()) {
      ptrace_set_signal_info(tid(), taken);
      stop_signal_ = taken.si_signo;
    } else {
      syscall(SYS_tkill, tid(), taken.si_signo);
    }
  }
  taken_signals_.clear();
}

void Tracee::resume() {
  if (!stopped_ || gone_) return;
  give_back();
  go(stop_signal_);
}

void Tracee::detach() {
  if (tid() < 0 || gone_) return;
  if (!stopped_) fail("thread {} is to be let go while it runs", tid());
  give_back();
  if (!try_ptrace_detach(tid(), stop_signal_)) log_debug("thread {} was gone already", tid());
  gone_ = true;
  stopped_ = false;
}

const arch::Registers& Tracee::registers() const {
  if (!stopped_) fail("thread {} runs: it has no registers to read", tid());
  return own_;
}

void Tracee::set_registers(const arch::Registers& registers) {
  if (!stopped_) fail("thread {} runs: its registers cannot be set", tid());
  own_ = registers;
  own_changed_ = true;
  if (!borrowed_) ptrace_set_registers(tid(), own_);
}

void Tracee::abort_rseq_section(arch::Registers& registers) const {
  const auto rseq = ptrace_rseq(tid());
  if (!rseq) return;
  const std::uint64_t at = ptrace_peek(tid(), rseq->address + kRseqSectionOffset);
  if (at == 0) return;
  const RseqSection section{0, 0, ptrace_peek(tid(), at + 8), ptrace_peek(tid(), at + 16),
                            ptrace_peek(tid(), at + 24)};
  if (registers.instruction_pointer() - section.start_ip >= section.post_commit_offset) return;
  registers.set_instruction_pointer(section.abort_ip);
}

arch::Registers Tracee::portable_registers(
    std::optional<arch::InterruptedCall>* blocked_call) const {
  arch::Registers registers = this->registers();
  arch::InterruptedCall interrupted;
  const bool hidden_state = interrupted_call(registers, &interrupted);
  if (blocked_call != nullptr) {
    *blocked_call = hidden_state ? std::optional(interrupted) : std::nullopt;
  }
  // Borrowed, own_ is past it; and no critical section has a system call in it (rseq(2)).
  if (!borrowed_ && own_.system_call() < 0) abort_rseq_section(registers);
  return registers;
}

std::vector<std::byte> Tracee::vector_state() const {
  auto state = ptrace_regset(tid(), arch::vector_note_type(), arch::vector_state_bytes());
  if (!state) fail("thread {} has no vector state", tid());
  arch::forget_unused_components(*state);
  return std::move(*state);
}

std::span<const std::byte> Tracee::vector_state(std::span<std::byte> memory) const {
  const auto bytes = ptrace_regset(tid(), arch::vector_note_type(), memory);
  if (!bytes) fail("thread {} has no vector state", tid());
  arch::forget_unused_components(memory.first(*bytes));
  return memory.first(*bytes);
}

void Tracee::set_vector_state(const std::vector<std::byte>& state) {
  ptrace_set_regset(tid(), arch::vector_note_type(), state);
  lost_regsets_.clear();  // they were more of the registers that are replaced
}

std::optional<std::vector<std::byte>> Tracee::further_regset(int note) const {
  if (borrowed_) {
    for (const auto& [lost, content] : lost_regsets_) {
      if (lost == note) return content;
    }
  }
  return ptrace_regset(tid(), note, kRegsetBytesMax);
}

void Tracee::set_further_regset(int note, std::span<const std::byte> content) {
  if (!stopped_) fail("thread {} runs: its registers cannot be set", tid());
  ptrace_set_regset(tid(), note, content);
  const auto lost = arch::notes_lost_by_calls();
  if (!borrowed_ || std::ranges::find(lost, note) == lost.end()) return;
  std::erase_if(lost_regsets_, [&](const auto& kept) { return kept.first == note; });
  lost_regsets_.emplace_back(note, std::vector(content.begin(), content.end()));
}

std::uint64_t Tracee::signal_mask() const {
  if (!stopped_) fail("thread {} runs: its signal mask cannot be read", tid());
  return own_mask_;
}

void Tracee::set_signal_mask(std::uint64_t mask) {
  if (!stopped_) fail("thread {} runs: its signal mask cannot be set", tid());
  own_mask_ = mask;
  own_changed_ = true;
  if (!mask_replaced_) ptrace_set_signal_mask(tid(), mask);
}

std::vector<siginfo_t> Tracee::pending_signals(bool shared) const {
  std::vector<siginfo_t> queued = ptrace_queued_signals(tid(), shared);
  if (shared) return queued;
  // What the kernel has handed to us is still to come for the task.
  queued.insert(queued.end(), taken_signals_.begin(), taken_signals_.end());
  if (stop_signal_ != 0 && !borrowed_) {
    if (const auto info = ptrace_signal_info(tid())) queued.push_back(*info);
  }
  return queued;
}

std::optional<RseqConfiguration> Tracee::rseq() const {
  const auto found = ptrace_rseq(tid());
  if (!found) return std::nullopt;
  return RseqConfiguration{found->address, found->bytes, found->signature, found->flags};
}

}  // namespace godwit
