#include "source-agent/capture/blocked_calls.h"

#include <linux/futex.h>
#include <sched.h>
#include <sys/syscall.h>
#include <time.h>

#include <algorithm>

#include "common/base/clock.h"
#include "common/base/scope_exit.h"
#include "common/base/unique_fd.h"
#include "common/kernel/proc_stat.h"
#include "common/kernel/proc_status.h"
#include "common/kernel/proc_text.h"

namespace godwit {
namespace {

constexpr std::int64_t kUnknown = -1;
constexpr std::uint64_t kLowestPointer = 4096;

// nullopt: the file is gone, or this kernel has none.
std::optional<std::string> try_read(const std::string& path) {
  const UniqueFd file = try_open_file(path, O_RDONLY);
  if (!file.valid()) return std::nullopt;
  try {
    return read_all(file.get(), path);
  } catch (const Error&) {
    return std::nullopt;  // the thread went away while we read
  }
}

struct RunTimes {
  std::int64_t last_ran_ns = 0;  // on the clock of the processor's run queue
  std::uint64_t voluntary_switches = 0;
};

// "se.exec_start  :   2766063.875349": milliseconds.
std::int64_t parse_milliseconds(std::string_view text) {
  const auto dot = text.find('.');
  if (dot == std::string_view::npos) fail("sched: '{}' is no time", text);
  const std::string_view fraction = text.substr(dot + 1);
  return parse_number<std::int64_t>(text.substr(0, dot), "sched") * 1'000'000 +
         (fraction.size() == 6 ? parse_number<std::int64_t>(fraction, "sched") : 0);
}

std::optional<RunTimes> read_run_times(const std::string& directory) {
  const auto text = try_read(directory + "/sched");
  if (!text) return std::nullopt;
  RunTimes times;
  std::string_view rest = *text;
  while (!rest.empty()) {
    const std::string_view line = next_line(rest);
    const auto colon = line.find(':');
    if (colon == std::string_view::npos) continue;
    const std::string_view value = trim(line.substr(colon + 1));
    if (line.starts_with("se.exec_start")) times.last_ran_ns = parse_milliseconds(value);
    if (line.starts_with("nr_voluntary_switches")) {
      times.voluntary_switches = parse_number<std::uint64_t>(value, "sched");
    }
  }
  if (times.last_ran_ns == 0) return std::nullopt;
  return times;
}

// What to add to a run queue's clock to get CLOCK_MONOTONIC. Every processor's differs, so we go
// there for a moment and compare our own time of running with the clock. Nothing if we may not.
std::optional<std::int64_t> run_clock_offset_ns(int processor) {
  cpu_set_t before;
  cpu_set_t there;
  CPU_ZERO(&there);
  if (processor < 0 || processor >= CPU_SETSIZE) return std::nullopt;
  CPU_SET(processor, &there);
  if (::sched_getaffinity(0, sizeof(before), &before) != 0) return std::nullopt;
  if (::sched_setaffinity(0, sizeof(there), &there) != 0) return std::nullopt;
  const ScopeExit back([&] { ::sched_setaffinity(0, sizeof(before), &before); });
  ::sched_yield();  // brings our own time of running up to date
  const std::int64_t now = monotonic_ns();
  const auto own = read_run_times("/proc/thread-self");
  if (!own) return std::nullopt;
  return now - own->last_ran_ns;
}

bool may_go_on_by_restart(std::int64_t number) {
  switch (number) {
    case SYS_nanosleep:
    case SYS_clock_nanosleep:
    case SYS_futex:
#ifdef SYS_poll
    case SYS_poll:
#endif
    case SYS_restart_syscall:
      return true;
    default:
      return false;
  }
}

// Which call restart_syscall continues: the kernel's stack shows it while the thread sleeps.
std::int64_t number_behind_restart(const std::string& directory, const BlockedIn& call) {
  const auto stack = try_read(directory + "/stack");
  if (!stack || stack->empty()) return kUnknown;
  if (stack->find("futex") != std::string::npos) return SYS_futex;
#ifdef SYS_poll
  if (stack->find("poll") != std::string::npos) return SYS_poll;
#endif
  // A sleep. nanosleep's first argument is a pointer, clock_nanosleep's a small number.
  return call.arguments[0] >= kLowestPointer && static_cast<std::int64_t>(call.arguments[0]) > 0
             ? SYS_nanosleep
             : SYS_clock_nanosleep;
}

BlockedIn place_of(const Tracee& tracee) {
  BlockedIn place;
  const arch::Registers& registers = tracee.registers();
  place.number = registers.system_call();
  for (int i = 0; i < 6; ++i) place.arguments[i] = registers.argument(i);
  place.stack_pointer = registers.stack_pointer();
  place.instruction_pointer = registers.instruction_pointer();
  return place;
}

std::int64_t read_time(const RemoteTask& task, Address at) {
  const auto time = task.read_value<timespec>(at);
  return time.tv_sec * 1'000'000'000LL + time.tv_nsec;
}

// The address of the time that the kernel wrote when it interrupted the sleep; 0: none.
Address rest_of_sleep(const arch::InterruptedCall& call) {
  if (call.number == SYS_nanosleep) return call.arguments[1];
  if (call.number == SYS_clock_nanosleep) return call.arguments[3];
  return 0;
}

}  // namespace

bool BlockedIn::same_place(const BlockedIn& other) const {
  return stack_pointer == other.stack_pointer && instruction_pointer == other.instruction_pointer &&
         std::equal(std::begin(arguments), std::end(arguments), std::begin(other.arguments));
}

std::optional<BlockedIn> parse_blocked_in(std::string_view text) {
  BlockedIn call;
  const std::string_view number = next_word(text);
  if (number.empty() || number == "running" || number == "-1") return std::nullopt;
  const auto next_hex = [&] {
    std::string_view word = next_word(text);
    if (!word.starts_with("0x")) fail("syscall: '{}' is no address", word);
    return parse_number<std::uint64_t>(word.substr(2), "syscall", 16);
  };
  call.number = parse_number<std::int64_t>(number, "syscall");
  for (std::uint64_t& argument : call.arguments) argument = next_hex();
  call.stack_pointer = next_hex();
  call.instruction_pointer = next_hex();
  return call;
}

void BlockedCallWatch::observe(pid_t host_pid) {
  const std::vector<pid_t> threads = list_threads(host_pid);
  std::erase_if(entries_, [&](const auto& entry) {
    return std::find(threads.begin(), threads.end(), entry.first) == threads.end();
  });
  for (const pid_t tid : threads) {
    try {
      observe_thread(fmt::format("/proc/{}/task/{}", host_pid, tid), tid);
    } catch (const Error& error) {
      if (error.code() != ENOENT && error.code() != ESRCH) throw;
      entries_.erase(tid);  // it has ended meanwhile
    }
  }
}

void BlockedCallWatch::observe_thread(const std::string& directory, pid_t host_tid) {
  const auto text = try_read(directory + "/syscall");
  auto call = text ? parse_blocked_in(*text) : std::nullopt;
  if (!call || !may_go_on_by_restart(call->number)) {
    entries_.erase(host_tid);
    return;
  }
  const auto known = entries_.find(host_tid);
  const bool goes_on = call->number == SYS_restart_syscall && known != entries_.end() &&
                       known->second.call.same_place(*call);
  const auto times = read_run_times(directory);
  Entry entry{.call = *call, .begun_ns = monotonic_ns(), .switches = 0};
  if (times) entry.switches = times->voluntary_switches;
  if (goes_on) {
    entry.call.number = known->second.call.number;
    entry.begun_ns = known->second.begun_ns;
  } else {
    if (call->number == SYS_restart_syscall) {
      entry.call.number = number_behind_restart(directory, *call);
    }
    const auto offset =
        times ? run_clock_offset_ns(read_proc_stat(directory).processor) : std::nullopt;
    if (offset) entry.begun_ns = std::min(entry.begun_ns, times->last_ran_ns + *offset);
  }
  entries_[host_tid] = entry;
}

void BlockedCallWatch::confirm(pid_t host_pid) {
  std::erase_if(entries_, [&](const auto& item) {
    const auto times = read_run_times(fmt::format("/proc/{}/task/{}", host_pid, item.first));
    // One switch: the stop itself. More: it was awake, and this may be another call of the same
    // kind.
    return times && times->voluntary_switches > item.second.switches + 1;
  });
}

std::optional<std::int64_t> BlockedCallWatch::begun_ns(pid_t host_tid,
                                                       const BlockedIn& call) const {
  const auto entry = entries_.find(host_tid);
  if (entry == entries_.end() || !entry->second.call.same_place(call)) return std::nullopt;
  return entry->second.begun_ns;
}

std::optional<std::int64_t> BlockedCallWatch::number(pid_t host_tid, const BlockedIn& call) const {
  const auto entry = entries_.find(host_tid);
  if (entry == entries_.end() || !entry->second.call.same_place(call)) return std::nullopt;
  if (entry->second.call.number == kUnknown) return std::nullopt;
  return entry->second.call.number;
}

std::optional<std::int64_t> relative_timeout_ns(const RemoteTask& task,
                                                const arch::InterruptedCall& call) {
  switch (call.number) {
    case SYS_nanosleep:
      return read_time(task, call.arguments[0]);
    case SYS_clock_nanosleep:
      if ((call.arguments[1] & TIMER_ABSTIME) != 0) return std::nullopt;
      return read_time(task, call.arguments[2]);
    case SYS_futex:
      if ((call.arguments[1] & FUTEX_CMD_MASK) != FUTEX_WAIT) return std::nullopt;
      if (call.arguments[3] == 0) return std::nullopt;
      return read_time(task, call.arguments[3]);
#ifdef SYS_poll
    case SYS_poll: {
      const auto ms = static_cast<std::int32_t>(call.arguments[2]);
      if (ms < 0) return std::nullopt;
      return ms * 1'000'000LL;
    }
#endif
    default:
      return std::nullopt;
  }
}

proto::BlockedCall describe_blocked_call(const RemoteTask& task, const Tracee& tracee,
                                         const arch::InterruptedCall& interrupted,
                                         arch::Registers& registers,
                                         const BlockedCallWatch& watch) {
  arch::InterruptedCall call = interrupted;
  const BlockedIn place = place_of(tracee);
  if (call.number == SYS_restart_syscall) {
    if (const auto number = watch.number(tracee.tid(), place)) {
      call.number = *number;
      arch::set_next_call(registers, *number);
    }
  }
  proto::BlockedCall message;
  message.set_number(call.number);
  for (const std::uint64_t argument : call.arguments) message.add_arguments(argument);
  message.set_remaining_ns(kUnknown);
  const auto whole = relative_timeout_ns(task, call);
  if (!whole) return message;
  if (const Address rest = rest_of_sleep(call); rest != 0) {
    message.set_remaining_ns(read_time(task, rest));
  } else if (const auto begun = watch.begun_ns(tracee.tid(), place)) {
    const std::int64_t left = *whole - (monotonic_ns() - *begun);
    // Past its time: it must have been another call that ended, and this one has just begun.
    message.set_remaining_ns(left > 0 ? left : *whole);
  }
  return message;
}

}  // namespace godwit
