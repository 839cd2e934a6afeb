#include "source-agent/capture/blocked_calls.h"

#include <linux/futex.h>
#include <sched.h>
#include <sys/syscall.h>
#include <time.h>

#include <algorithm>
#include <set>
#include <vector>

#include "common/base/clock.h"
#include "common/base/log.h"
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

std::string directory_of(pid_t host_pid, pid_t host_tid) {
  return fmt::format("/proc/{}/task/{}", host_pid, host_tid);
}

struct RunTimes {
  std::int64_t last_ran_ns = 0;  // on the clock of the processor's run queue; 0: not shown
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

// Throws Error with ENOENT or ESRCH when the thread is gone.
RunTimes read_run_times(const std::string& directory) {
  RunTimes times;
  const auto text = try_read(directory + "/sched");
  std::string_view rest = text ? std::string_view(*text) : std::string_view();
  bool has_switches = false;
  while (!rest.empty()) {
    const std::string_view line = next_line(rest);
    const auto colon = line.find(':');
    if (colon == std::string_view::npos) continue;
    const std::string_view value = trim(line.substr(colon + 1));
    if (line.starts_with("se.exec_start")) times.last_ran_ns = parse_milliseconds(value);
    if (line.starts_with("nr_voluntary_switches")) {
      times.voluntary_switches = parse_number<std::uint64_t>(value, "sched");
      has_switches = true;
    }
  }
  if (!has_switches) times.voluntary_switches = read_proc_status(directory).voluntary_switches;
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
  const RunTimes own = read_run_times("/proc/thread-self");
  if (own.last_ran_ns == 0) return std::nullopt;
  return now - own.last_ran_ns;
}

// Whether the call may end by itself after a time that only the kernel knows.
bool has_relative_timeout(std::int64_t number, const std::uint64_t* arguments) {
  switch (number) {
    case SYS_nanosleep:
      return true;
    case SYS_clock_nanosleep:
      return (arguments[1] & TIMER_ABSTIME) == 0;
    case SYS_futex:
      return (arguments[1] & FUTEX_CMD_MASK) == FUTEX_WAIT && arguments[3] != 0;
#ifdef SYS_poll
    case SYS_poll:
      return static_cast<std::int32_t>(arguments[2]) >= 0;
#endif
    default:
      return false;
  }
}

// Which call restart_syscall continues: the kernel's stack shows it while the thread sleeps.
std::int64_t number_behind_restart(const std::string& directory, const BlockedIn& call) {
  // The tail of a killed agent may have brought it there (arch/): its first argument is lost.
  const std::uint64_t instruction_bytes = arch::call_instruction().size();
  if (call.arguments[0] == call.instruction_pointer - instruction_bytes) return kUnknown;
  auto stack = try_read(directory + "/stack");
  if (!stack || stack->empty()) stack = try_read(directory + "/wchan");
  if (!stack || stack->empty() || *stack == "0") return kUnknown;
  if (stack->find("futex") != std::string::npos) return SYS_futex;
#ifdef SYS_poll
  if (stack->find("poll") != std::string::npos) return SYS_poll;
#endif
  for (const char* stop : {"signal", "ptrace", "freez"}) {
    if (stack->find(stop) != std::string::npos) return kUnknown;  // on its way there
  }
  // A sleep, of which the compiler may have left no trace. nanosleep's first argument is a pointer,
  // clock_nanosleep's a small number.
  return call.arguments[0] >= kLowestPointer && static_cast<std::int64_t>(call.arguments[0]) > 0
             ? SYS_nanosleep
             : SYS_clock_nanosleep;
}

BlockedIn place_of(const Tracee& tracee, const arch::InterruptedCall& interrupted) {
  BlockedIn place;
  const arch::Registers& registers = tracee.registers();
  place.number = registers.system_call();
  std::ranges::copy(interrupted.arguments, place.arguments);
  place.stack_pointer = registers.stack_pointer();
  place.instruction_pointer = interrupted.return_address;
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
  sights_.clear();
  observe(host_pid, list_threads(host_pid));
  has_observed_ = true;
}

void BlockedCallWatch::observe(pid_t host_pid, std::span<const pid_t> host_tids) {
  ClockOffsets offsets;
  for (const pid_t tid : host_tids) {
    try {
      observe_thread(host_pid, tid, offsets);
    } catch (const Error& error) {
      if (error.code() != ENOENT && error.code() != ESRCH) throw;
    }
  }
}

void BlockedCallWatch::observe_thread(pid_t host_pid, pid_t host_tid, ClockOffsets& offsets) {
  const std::string directory = directory_of(host_pid, host_tid);
  const auto text = try_read(directory + "/syscall");
  auto call = text ? parse_blocked_in(*text) : std::nullopt;
  if (!call) return;
  if (call->number == SYS_restart_syscall) {
    const auto known = calls_.find(host_tid);
    if (known != calls_.end() && known->second.place.same_place(*call)) return;
    call->number = number_behind_restart(directory, *call);
  } else if (!has_relative_timeout(call->number, call->arguments)) {
    return;
  }
  const auto times = read_run_times(directory);
  Sight sight{.call = *call, .begun_ns = monotonic_ns(), .switches = times.voluntary_switches};
  if (times.last_ran_ns != 0) {
    const int processor = read_proc_stat(directory).processor;
    auto offset = offsets.find(processor);
    if (offset == offsets.end()) {
      offset = offsets.emplace(processor, run_clock_offset_ns(processor)).first;
    }
    if (offset->second) {
      sight.begun_ns = std::min(sight.begun_ns, times.last_ran_ns + *offset->second);
    }
  }
  sights_[host_tid] = sight;
}

std::optional<BlockedCallWatch::Call> BlockedCallWatch::call_of(pid_t host_pid,
                                                                const Tracee& tracee) const {
  arch::Registers registers = tracee.registers();
  arch::InterruptedCall interrupted;
  if (!tracee.interrupted_call(registers, &interrupted)) return std::nullopt;
  Call call{.place = place_of(tracee, interrupted),
            .number = interrupted.number,
            .begun_ns = std::nullopt};
  const bool restarted = interrupted.number == SYS_restart_syscall;
  const auto known = calls_.find(tracee.tid());
  // With its own number it is another call: the one before would be in restart_syscall by now.
  if (restarted && known != calls_.end() && known->second.place.same_place(call.place)) {
    return known->second;
  }
  if (restarted) call.number = kUnknown;
  const auto sight = sights_.find(tracee.tid());
  if (sight == sights_.end() || !sight->second.call.same_place(call.place)) return call;
  if (restarted) call.number = sight->second.call.number;
  if (call.number != sight->second.call.number) return call;
  // One switch: the stop itself. More: it was awake, and this may be another call of the same kind.
  const auto at_stop = tracee.switches_at_stop();
  const std::uint64_t switches =
      at_stop ? *at_stop : read_run_times(directory_of(host_pid, tracee.tid())).voluntary_switches;
  if (switches <= sight->second.switches + 1) call.begun_ns = sight->second.begun_ns;
  return call;
}

void BlockedCallWatch::note_stop(RemoteTask& task) {
  std::set<pid_t> here;
  for (const Tracee& tracee : task.threads()) here.insert(tracee.tid());
  std::erase_if(calls_, [&](const auto& one) { return !here.contains(one.first); });
  note_threads(task);
  sights_.clear();
  has_observed_ = false;
}

void BlockedCallWatch::note_stop_of_some(RemoteTask& task) {
  note_threads(task);
  for (const Tracee& tracee : task.threads()) sights_.erase(tracee.tid());
}

void BlockedCallWatch::note_threads(RemoteTask& task) {
  std::vector<pid_t> unknown;
  for (const Tracee& tracee : task.threads()) {
    if (tracee.gone()) continue;
    const auto call = call_of(task.host_pid(), tracee);
    if (!call) {
      calls_.erase(tracee.tid());
      continue;
    }
    calls_[tracee.tid()] = *call;
    if (call->number == kUnknown) unknown.push_back(tracee.tid());
  }
  for (const pid_t tid : unknown) look_into_call(task, tid);
}

void BlockedCallWatch::look_into_call(RemoteTask& task, pid_t host_tid) {
  const std::string directory = directory_of(task.host_pid(), host_tid);
  std::int64_t number = kUnknown;
  task.let_run(host_tid, [&] {
    const auto text = try_read(directory + "/syscall");
    const auto call = text ? parse_blocked_in(*text) : std::nullopt;
    if (!call) return false;  // it runs
    if (call->number == SYS_restart_syscall) number = number_behind_restart(directory, *call);
    return number != kUnknown || call->number != SYS_restart_syscall;
  });
  for (const Tracee& tracee : task.threads()) {
    if (tracee.tid() != host_tid) continue;
    auto call = call_of(task.host_pid(), tracee);
    if (call && call->number == kUnknown) call->number = number;
    if (call) calls_[host_tid] = *call;
    if (!call) calls_.erase(host_tid);
  }
}

std::optional<std::int64_t> BlockedCallWatch::begun_ns(pid_t host_tid,
                                                       const BlockedIn& call) const {
  const auto known = calls_.find(host_tid);
  if (known == calls_.end() || !known->second.place.same_place(call)) return std::nullopt;
  return known->second.begun_ns;
}

std::optional<std::int64_t> BlockedCallWatch::number(pid_t host_tid, const BlockedIn& call) const {
  const auto known = calls_.find(host_tid);
  if (known == calls_.end() || !known->second.place.same_place(call)) return std::nullopt;
  if (known->second.number == kUnknown) return std::nullopt;
  return known->second.number;
}

std::optional<std::int64_t> relative_timeout_ns(const RemoteTask& task,
                                                const arch::InterruptedCall& call) {
  if (!has_relative_timeout(call.number, call.arguments)) return std::nullopt;
  switch (call.number) {
    case SYS_nanosleep:
      return read_time(task, call.arguments[0]);
    case SYS_clock_nanosleep:
      return read_time(task, call.arguments[2]);
    case SYS_futex:
      return read_time(task, call.arguments[3]);
    default:  // poll
      return static_cast<std::int32_t>(call.arguments[2]) * 1'000'000LL;
  }
}

proto::BlockedCall describe_blocked_call(const RemoteTask& task, const Tracee& tracee,
                                         const arch::InterruptedCall& interrupted,
                                         arch::Registers& registers,
                                         const BlockedCallWatch& watch) {
  arch::InterruptedCall call = interrupted;
  const BlockedIn place = place_of(tracee, call);
  if (call.number == SYS_restart_syscall) {
    if (const auto number = watch.number(tracee.tid(), place)) {
      call.number = *number;
      arch::set_next_call(registers, *number);
    } else {
      log_warning("thread={} sleeps in a call that cannot be told: it may return EINTR",
                  tracee.tid());
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
    message.set_remaining_ns(
        std::max<std::int64_t>(*whole - (monotonic_ns() - *begun), 0));  // 0: about to end
  }
  return message;
}

}  // namespace godwit
