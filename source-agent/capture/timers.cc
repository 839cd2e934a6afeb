#include "source-agent/capture/timers.h"

#include <signal.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>

#include <algorithm>
#include <cstring>
#include <set>

#include "common/base/unique_fd.h"
#include "common/kernel/proc_status.h"
#include "common/kernel/proc_text.h"

namespace godwit {
namespace {

constexpr int kIntervalTimers = 3;

std::int64_t to_ns(const timespec& time) { return time.tv_sec * 1'000'000'000LL + time.tv_nsec; }
std::int64_t to_ns(const timeval& time) {
  return time.tv_sec * 1'000'000'000LL + time.tv_usec * 1'000LL;
}

// "signal/pid.12", "none/pid.12", "signal/tid.13".
void parse_notify(std::string_view text, proto::PosixTimer& timer) {
  const auto slash = text.find('/');
  const auto dot = text.find('.');
  if (slash == std::string_view::npos || dot == std::string_view::npos || dot < slash) {
    fail("timers: '{}' is no way to notify", text);
  }
  const std::string_view how = text.substr(0, slash);
  int notify = how == "signal" ? SIGEV_SIGNAL : how == "none" ? SIGEV_NONE : SIGEV_THREAD;
  if (text.substr(slash + 1, dot - slash - 1) == "tid") {
    notify |= SIGEV_THREAD_ID;
    timer.set_target_tid(parse_number<int>(text.substr(dot + 1), "timers"));
  }
  timer.set_notify(notify);
}

// "60/00007fff86e452a8"
void parse_signal(std::string_view text, proto::PosixTimer& timer) {
  const auto slash = text.find('/');
  if (slash == std::string_view::npos) fail("timers: '{}' is no signal", text);
  std::string_view value = text.substr(slash + 1);
  if (value.starts_with("0x")) value.remove_prefix(2);
  timer.set_signal(parse_number<int>(text.substr(0, slash), "timers"));
  // "(null)": how some kernels print a zero pointer.
  timer.set_value(value == "(null)" ? 0 : parse_number<std::uint64_t>(value, "timers", 16));
}

pid_t inner_tid(pid_t host_pid, pid_t host_tid) {
  return read_proc_status(fmt::format("/proc/{}/task/{}", host_pid, host_tid)).inner_pid();
}

std::vector<proto::PosixTimer> list_timers(pid_t host_pid) {
  const std::string path = fmt::format("/proc/{}/timers", host_pid);
  return in_context([&] { return parse_proc_timers(read_file(path)); }, "{}", path);
}

// The signals that timers have sent and nobody has taken.
class TimerSignals {
 public:
  explicit TimerSignals(const proto::Process& process) {
    add(process.signals().pending());
    for (const proto::Thread& thread : process.threads()) add(thread.pending());
  }
  // It had time left when it was asked. (One with a period always has.)
  bool ended_since(const proto::PosixTimer& timer) const {
    return timer.remaining_ns() != 0 && timer.interval_ns() == 0 &&
           posix_timers_.contains(timer.id());
  }
  bool ended_since(const proto::IntervalTimer& timer) const {
    return timer.remaining_ns() != 0 && timer.which() == ITIMER_REAL && alarm_;
  }

 private:
  template <typename List>
  void add(const List& pending) {
    for (const proto::PendingSignal& one : pending) {
      siginfo_t info{};
      std::memcpy(&info, one.siginfo().data(), std::min(one.siginfo().size(), sizeof(info)));
      if (info.si_code == SI_TIMER) posix_timers_.insert(info.si_timerid);
      alarm_ = alarm_ || info.si_signo == SIGALRM;
    }
  }

  std::set<int> posix_timers_;
  bool alarm_ = false;
};

}  // namespace

std::vector<proto::PosixTimer> parse_proc_timers(std::string_view text) {
  std::vector<proto::PosixTimer> timers;
  while (!text.empty()) {
    const std::string_view line = next_line(text);
    const auto colon = line.find(':');
    if (colon == std::string_view::npos) continue;
    const std::string_view key = line.substr(0, colon);
    const std::string_view value = trim(line.substr(colon + 1));
    if (key == "ID") {
      timers.emplace_back().set_id(parse_number<int>(value, "timers"));
      continue;
    }
    if (timers.empty()) fail("timers: '{}' before any ID", line);
    if (key == "signal") parse_signal(value, timers.back());
    if (key == "notify") parse_notify(value, timers.back());
    if (key == "ClockID") timers.back().set_clock(parse_number<int>(value, "timers"));
  }
  std::sort(timers.begin(), timers.end(),
            [](const auto& left, const auto& right) { return left.id() < right.id(); });
  return timers;
}

TimersQuery::TimersQuery(SyscallBatch& batch, pid_t host_pid) {
  for (int which = 0; which < kIntervalTimers; ++which) {
    interval_.push_back(batch.reserve(sizeof(itimerval)));
    batch.add(SYS_getitimer, {which, interval_.back()}, fmt::format("interval timer {}", which));
  }
  for (proto::PosixTimer& timer : list_timers(host_pid)) {
    if (timer.target_tid() != 0) timer.set_target_tid(inner_tid(host_pid, timer.target_tid()));
    const std::string object = fmt::format("timer {}", timer.id());
    const DataAt time = batch.reserve(sizeof(itimerspec));
    batch.add(SYS_timer_gettime, {timer.id(), time}, object);
    const RowResult overrun = batch.add(SYS_timer_getoverrun, {timer.id()}, object);
    posix_.push_back({std::move(timer), time, overrun});
  }
}

void TimersQuery::read(const BatchOutcome& outcome, proto::Timers& timers) const {
  for (int which = 0; which < kIntervalTimers; ++which) {
    const auto time = outcome.value<itimerval>(interval_[which]);
    if (to_ns(time.it_value) == 0 && to_ns(time.it_interval) == 0) continue;
    proto::IntervalTimer& message = *timers.add_interval_timers();
    message.set_which(which);
    message.set_remaining_ns(to_ns(time.it_value));
    message.set_interval_ns(to_ns(time.it_interval));
  }
  for (const Posix& posix : posix_) {
    const auto time = outcome.value<itimerspec>(posix.time);
    proto::PosixTimer& message = *timers.add_posix_timers();
    message = posix.timer;
    message.set_remaining_ns(to_ns(time.it_value));
    message.set_interval_ns(to_ns(time.it_interval));
    message.set_overrun(static_cast<int>(outcome[posix.overrun]));
  }
}

proto::Timers capture_timers(CaptureContext& context) {
  SyscallBatch batch;
  const TimersQuery query(batch, context.host_pid);
  proto::Timers timers;
  query.read(context.task.run(batch), timers);
  return timers;
}

void ask_ended_timers_again(CaptureContext& context, proto::Process& process) {
  const TimerSignals sent(process);
  proto::Timers& timers = *process.mutable_timers();
  const auto ended = [&](const auto& timer) { return sent.ended_since(timer); };
  if (std::ranges::none_of(timers.posix_timers(), ended) &&
      std::ranges::none_of(timers.interval_timers(), ended)) {
    return;
  }
  const proto::Timers now = capture_timers(context);
  for (proto::PosixTimer& timer : *timers.mutable_posix_timers()) {
    if (!ended(timer)) continue;
    const auto again = std::ranges::find(now.posix_timers(), timer.id(), &proto::PosixTimer::id);
    if (again != now.posix_timers().end()) timer = *again;
  }
  for (proto::IntervalTimer& timer : *timers.mutable_interval_timers()) {
    if (!ended(timer)) continue;
    const auto again =
        std::ranges::find(now.interval_timers(), timer.which(), &proto::IntervalTimer::which);
    if (again != now.interval_timers().end()) {
      timer = *again;
    } else {
      timer.set_remaining_ns(0);  // what is not listed is disarmed
    }
  }
}

void preflight_timers(pid_t host_pid, Findings& findings) {
  constexpr int kClockTypeMask = 7;
  constexpr int kDeviceClock = 3;  // CLOCKFD of clock_getres(2): a clock behind a descriptor
  const bool several_threads = list_threads(host_pid).size() > 1;
  for (const proto::PosixTimer& timer : list_timers(host_pid)) {
    const std::string object = fmt::format("timer {}", timer.id());
    if (timer.clock() == CLOCK_THREAD_CPUTIME_ID && several_threads) {
      refuse(findings, "thread-clock-timer", object,
             "it runs on one thread's processor time, and the kernel does not say which thread's",
             "use CLOCK_PROCESS_CPUTIME_ID or a clock from pthread_getcpuclockid");
    }
    if (timer.clock() < 0 && (timer.clock() & kClockTypeMask) == kDeviceClock) {
      refuse(findings, "device-clock-timer", object, "it runs on the clock of a device",
             "delete the timer before the move");
    }
  }
}

}  // namespace godwit
