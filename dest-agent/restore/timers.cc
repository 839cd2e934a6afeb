#include "dest-agent/restore/timers.h"

#include <signal.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>

#include <algorithm>
#include <map>
#include <vector>

#include "common/base/clock.h"
#include "dest-agent/restore/signals.h"

namespace godwit {
namespace {

constexpr int kTimerCreateRestoreIds = 77;  // PR_TIMER_CREATE_RESTORE_IDS
constexpr int kOff = 0;
constexpr int kOn = 1;
constexpr int kTriesMax = 1 << 16;  // timers created and deleted to reach a number
constexpr int kTriesPerBatch = 512;

// struct sigevent as the kernel reads it.
struct KernelSigevent {
  std::uint64_t value = 0;
  std::int32_t signal = 0;
  std::int32_t notify = 0;
  std::int32_t thread = 0;
  std::int32_t padding[11] = {};
};
static_assert(sizeof(KernelSigevent) == 64);

std::string name_of(const proto::PosixTimer& timer) { return fmt::format("timer {}", timer.id()); }

// What timer_create fixes for good.
bool same_creation(const proto::PosixTimer& left, const proto::PosixTimer& right) {
  return left.id() == right.id() && left.clock() == right.clock() &&
         left.notify() == right.notify() && left.signal() == right.signal() &&
         left.value() == right.value() && left.target_tid() == right.target_tid();
}

std::map<int, proto::PosixTimer> timers_of(const proto::Timers& timers) {
  std::map<int, proto::PosixTimer> by_id;
  for (const proto::PosixTimer& timer : timers.posix_timers()) by_id[timer.id()] = timer;
  return by_id;
}

RowResult create_row(const proto::PosixTimer& timer, DataAt id, SyscallBatch& batch) {
  KernelSigevent event;
  event.value = timer.value();
  event.signal = timer.signal();
  event.notify = timer.notify();
  event.thread = timer.target_tid();
  return batch.add(SYS_timer_create, {timer.clock(), batch.put_value(event), id}, name_of(timer));
}

void create_with_ids(RemoteTask& task, const std::vector<proto::PosixTimer>& timers) {
  SyscallBatch batch;
  batch.add(SYS_prctl, {kTimerCreateRestoreIds, kOn, 0, 0, 0}, "timer numbers");
  std::vector<DataAt> ids;
  for (const proto::PosixTimer& timer : timers) {
    ids.push_back(batch.put_value(timer.id()));
    create_row(timer, ids.back(), batch);
  }
  batch.add(SYS_prctl, {kTimerCreateRestoreIds, kOff, 0, 0, 0}, "timer numbers");
  const BatchOutcome outcome = task.run(batch);
  for (std::size_t i = 0; i < timers.size(); ++i) {
    const int id = outcome.value<int>(ids[i]);
    if (id != timers[i].id()) fail("{}: the kernel made it timer {}", name_of(timers[i]), id);
  }
}

int create_one(RemoteTask& task, const proto::PosixTimer& timer) {
  SyscallBatch batch;
  const DataAt id = batch.reserve(sizeof(int));
  create_row(timer, id, batch);
  return task.run(batch).value<int>(id);
}

void delete_one(RemoteTask& task, int id) {
  SyscallBatch batch;
  batch.add(SYS_timer_delete, {id}, fmt::format("timer {}", id));
  task.run(batch);
}

// The kernel counts its numbers up. `skip` timers are made and removed, then the one that stays.
int create_after(RemoteTask& task, const proto::PosixTimer& timer, int skip) {
  while (skip > 0) {
    const int count = std::min(skip, kTriesPerBatch);
    SyscallBatch batch;
    DataAt last;
    for (int i = 0; i < count; ++i) {
      last = batch.reserve(sizeof(int));
      create_row(timer, last, batch);
    }
    const int made = task.run(batch).value<int>(last);
    SyscallBatch remove;
    for (int id = made - count + 1; id <= made; ++id) {
      remove.add_may_fail(SYS_timer_delete, {id}, name_of(timer));
    }
    task.run(remove);
    skip -= count;
  }
  return create_one(task, timer);
}

// `timers` are in ascending order of their numbers.
void create_by_counting(RemoteTask& task, const std::vector<proto::PosixTimer>& timers) {
  for (const proto::PosixTimer& timer : timers) {
    int made = create_one(task, timer);
    if (made == timer.id()) continue;
    delete_one(task, made);
    const int skip = timer.id() - made - 1;
    if (skip < 0 || skip > kTriesMax) {
      throw Error(fmt::format("{}: this kernel's next timer is {}", name_of(timer), made))
          .with_hint("Linux 6.16 or newer gives a timer any number");
    }
    made = create_after(task, timer, skip);
    if (made != timer.id()) fail("{}: the kernel made it timer {}", name_of(timer), made);
  }
}

bool kernel_takes_ids(RemoteTask& task) {
  SyscallBatch batch;
  const RowResult row = batch.add_may_fail(SYS_prctl, {kTimerCreateRestoreIds, kOn, 0, 0, 0});
  batch.add_may_fail(SYS_prctl, {kTimerCreateRestoreIds, kOff, 0, 0, 0});
  return task.run(batch)[row] == 0;
}

bool runs_on_processor_time(int clock) {
  constexpr int kClockTypeMask = 3;
  return clock == CLOCK_PROCESS_CPUTIME_ID || clock == CLOCK_THREAD_CPUTIME_ID ||
         (clock < 0 && (clock & kClockTypeMask) < 3);
}

// What is left after `elapsed`; a timer that ran out meanwhile goes off at once.
std::int64_t left_ns(std::int64_t remaining, std::int64_t elapsed) {
  if (remaining <= 0) return 0;
  return std::max<std::int64_t>(remaining - elapsed, 1);
}

// The timer that sent it; -1: it is no timer's.
int timer_of(const proto::PendingSignal& pending) {
  const siginfo_t info = to_siginfo(pending);
  return info.si_code == SI_TIMER ? info.si_timerid : -1;
}

std::vector<int> timers_with_signals(const proto::Process& process) {
  std::vector<int> ids;
  for (const auto& pending : process.signals().pending()) ids.push_back(timer_of(pending));
  for (const auto& thread : process.threads()) {
    for (const auto& pending : thread.pending()) ids.push_back(timer_of(pending));
  }
  return ids;
}

std::int64_t to_ns(const timespec& time) { return time.tv_sec * 1'000'000'000LL + time.tv_nsec; }
timespec to_timespec(std::int64_t ns) { return {ns / 1'000'000'000, ns % 1'000'000'000}; }
// Rounded up: a timer never ends early, and never becomes disarmed.
timeval to_timeval(std::int64_t ns) {
  const std::int64_t us = (ns + 999) / 1000;
  return {us / 1'000'000, us % 1'000'000};
}

}  // namespace

void restore_posix_timers(RemoteTask& task, const proto::Timers& have, const proto::Timers& want,
                          TimerNumbers numbers) {
  const auto before = timers_of(have);
  const auto after = timers_of(want);
  SyscallBatch removal;
  for (const auto& [id, timer] : before) {
    const auto kept = after.find(id);
    if (kept == after.end() || !same_creation(timer, kept->second)) {
      removal.add(SYS_timer_delete, {id}, name_of(timer));
    }
  }
  if (!removal.empty()) task.run(removal);
  std::vector<proto::PosixTimer> missing;
  for (const auto& [id, timer] : after) {
    const auto old = before.find(id);
    if (old == before.end() || !same_creation(old->second, timer)) missing.push_back(timer);
  }
  if (missing.empty()) return;
  if (numbers == TimerNumbers::kProbe && kernel_takes_ids(task)) {
    create_with_ids(task, missing);
  } else {
    create_by_counting(task, missing);
  }
}

WaitingTimers find_waiting_timers(RemoteTask& task, const proto::Process& want,
                                  std::int64_t captured_ns) {
  const std::vector<int> with_signals = timers_with_signals(want);
  SyscallBatch batch;
  std::map<int, DataAt> times;
  for (const proto::PosixTimer& timer : want.timers().posix_timers()) {
    const bool sent =
        std::find(with_signals.begin(), with_signals.end(), timer.id()) != with_signals.end();
    if (!sent || timer.interval_ns() == 0 || runs_on_processor_time(timer.clock())) continue;
    times[timer.id()] = batch.reserve(sizeof(timespec));
    batch.add(SYS_clock_gettime, {timer.clock(), times[timer.id()]}, name_of(timer));
  }
  WaitingTimers waiting;
  if (times.empty()) return waiting;
  const BatchOutcome outcome = task.run(batch);
  const std::int64_t passed_ns = monotonic_ns() - captured_ns;
  for (const auto& [id, at] : times) {
    waiting[id] = to_ns(outcome.value<timespec>(at)) - passed_ns;
  }
  return waiting;
}

void remove_signals_of(const WaitingTimers& waiting, proto::Process& process) {
  const auto remove = [&](auto& list) {
    list.erase(std::remove_if(list.begin(), list.end(),
                              [&](const auto& one) { return waiting.contains(timer_of(one)); }),
               list.end());
  };
  if (waiting.empty()) return;
  remove(*process.mutable_signals()->mutable_pending());
  for (proto::Thread& thread : *process.mutable_threads()) remove(*thread.mutable_pending());
}

void plan_timers_armed(const proto::Timers& want, const WaitingTimers& waiting,
                       std::int64_t elapsed_ns, SyscallBatch& batch) {
  for (const proto::IntervalTimer& timer : want.interval_timers()) {
    const std::int64_t elapsed = timer.which() == ITIMER_REAL ? elapsed_ns : 0;
    itimerval time{};
    time.it_interval = to_timeval(timer.interval_ns());
    time.it_value = to_timeval(left_ns(timer.remaining_ns(), elapsed));
    // Nothing left, but a period: its SIGALRM is pending, and taking that starts it anew. It goes
    // off once more, which adds nothing to a signal that is pending already.
    if (timer.remaining_ns() == 0) time.it_value = to_timeval(1);
    batch.add(SYS_setitimer, {timer.which(), batch.put_value(time), 0},
              fmt::format("interval timer {}", timer.which()));
  }
  for (const proto::PosixTimer& timer : want.posix_timers()) {
    const std::int64_t elapsed = runs_on_processor_time(timer.clock()) ? 0 : elapsed_ns;
    itimerspec time{};
    time.it_interval = to_timespec(timer.interval_ns());
    time.it_value = to_timespec(left_ns(timer.remaining_ns(), elapsed));
    const auto found = waiting.find(timer.id());
    if (found != waiting.end()) {
      // When it went off last, so that its period stays where it was.
      const std::int64_t last = found->second + timer.remaining_ns() - timer.interval_ns();
      time.it_value = to_timespec(std::max<std::int64_t>(last, 1));
    }
    const int flags = found != waiting.end() ? TIMER_ABSTIME : 0;
    batch.add(SYS_timer_settime, {timer.id(), flags, batch.put_value(time), 0}, name_of(timer));
  }
}

}  // namespace godwit
