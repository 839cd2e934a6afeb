// Compares two descriptions of what should be one process: the other half of
// common/model/describe.h.
#include <google/protobuf/util/message_differencer.h>
#include <signal.h>
#include <sys/syscall.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <iterator>
#include <memory>
#include <optional>
#include <span>
#include <sstream>

#include "arch/arch.h"
#include "common/base/error.h"
#include "common/model/describe.h"
#include "common/model/layout_diff.h"
#include "source-agent/capture/fd_compare.h"

namespace godwit {
namespace {

using google::protobuf::Message;
using google::protobuf::util::MessageDifferencer;

// Numbers that the kernel or another host gives, and times that run on.
constexpr const char* kMayDiffer[] = {
    "godwit.proto.TaskIdentity.host_pid",
    "godwit.proto.TaskIdentity.session",
    "godwit.proto.TaskIdentity.group",
    "godwit.proto.TaskIdentity.start_time_ticks",
    "godwit.proto.Thread.host_tid",
    "godwit.proto.Thread.blocked_call",
    "godwit.proto.Mapping.shared_object",
    "godwit.proto.FileIdentity.modified_ns",
    "godwit.proto.FileIdentity.inode",
    "godwit.proto.FileIdentity.changed_ns",
    "godwit.proto.IntervalTimer.remaining_ns",
    "godwit.proto.PosixTimer.remaining_ns",
    "godwit.proto.PosixTimer.overrun",
    "godwit.proto.Process.fd_table",  // compare_fd_tables()
};

const google::protobuf::FieldDescriptor* field(const char* full_name) {
  const auto* found =
      google::protobuf::DescriptorPool::generated_pool()->FindFieldByName(full_name);
  if (found == nullptr) fail("no field {}", full_name);
  return found;
}

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) {
    if (!line.empty() && !line.starts_with("ignored: ")) lines.push_back(line);
  }
  return lines;
}

// A program can tell when an area is in pieces (mremap refuses a range of several), and cannot when
// it is part of a larger one.
void compare_divisions(const proto::Mappings& expected, const proto::Mappings& found,
                       std::vector<std::string>& lines) {
  for (const proto::Mapping& area : expected.areas()) {
    for (const proto::Mapping& piece : found.areas()) {
      if (piece.end() > area.start() && piece.end() < area.end()) {
        lines.push_back(fmt::format("mappings: area {:x}-{:x} is divided at {:x}", area.start(),
                                    area.end(), piece.end()));
      }
    }
  }
}

// The flags of an area that appeared in the last instant before the switch are not asked for (the
// question visits every page), and the kernel gives a thread's stack this one. It is a hint about
// speed; every other flag counts.
proto::Mappings without_page_size_hint(proto::Mappings mappings) {
  for (proto::Mapping& area : *mappings.mutable_areas()) {
    area.set_flags(area.flags() & ~static_cast<std::uint64_t>(proto::AREA_NO_HUGE_PAGES));
  }
  return mappings;
}

bool is_of_timer(const proto::PendingSignal& pending) {
  siginfo_t info{};
  std::memcpy(&info, pending.siginfo().data(), std::min(sizeof info, pending.siginfo().size()));
  return info.si_code == SI_TIMER ||
         (info.si_code == SI_KERNEL &&
          (info.si_signo == SIGALRM || info.si_signo == SIGVTALRM || info.si_signo == SIGPROF));
}

using PendingSignals = google::protobuf::RepeatedPtrField<proto::PendingSignal>;

// Timers run on while the task is stopped: a signal of one may have come since.
void forget_new_timer_signals(const PendingSignals& expected, PendingSignals& found) {
  const auto is_new = [&](const proto::PendingSignal& pending) {
    return is_of_timer(pending) &&
           std::none_of(expected.begin(), expected.end(), [&](const proto::PendingSignal& other) {
             return other.siginfo() == pending.siginfo();
           });
  };
  found.erase(std::remove_if(found.begin(), found.end(), is_new), found.end());
}

void clear_bookkeeping(proto::Process& process) {
  for (proto::Thread& thread : *process.mutable_threads()) {
    const auto* registers = reinterpret_cast<const std::byte*>(thread.vector_registers().data());
    std::vector<std::byte> state(registers, registers + thread.vector_registers().size());
    state.resize(thread.vector_bytes());
    arch::fit_vector_state(state);  // another processor's may be larger
    arch::clear_bookkeeping(arch::vector_note_type(), state);
    thread.set_vector_registers(state.data(), state.size());
    thread.set_vector_bytes(static_cast<std::uint32_t>(state.size()));
    for (proto::RegisterSet& set : *thread.mutable_further_registers()) {
      arch::clear_bookkeeping(static_cast<int>(set.note()),
                              std::as_writable_bytes(std::span(*set.mutable_content())));
    }
  }
}

void forget_new_timer_signals(const proto::Process& expected, proto::Process& found) {
  forget_new_timer_signals(expected.signals().pending(),
                           *found.mutable_signals()->mutable_pending());
  for (proto::Thread& thread : *found.mutable_threads()) {
    for (const proto::Thread& other : expected.threads()) {
      if (other.tid() != thread.tid()) continue;
      forget_new_timer_signals(other.pending(), *thread.mutable_pending());
    }
  }
}

constexpr long kSleepingCalls[] = {
#ifdef SYS_poll
    SYS_poll,      SYS_select,          SYS_epoll_wait,
#endif
    SYS_nanosleep, SYS_clock_nanosleep, SYS_futex,      SYS_ppoll, SYS_pselect6, SYS_epoll_pwait};

std::optional<arch::Registers> registers_of(const proto::Thread& thread) {
  arch::Registers registers;
  if (thread.general_registers().size() != sizeof(registers.raw)) return std::nullopt;
  std::memcpy(&registers.raw, thread.general_registers().data(), sizeof(registers.raw));
  return registers;
}

// The thread was to go on with a call that sleeps, and its time was up before it was looked at.
bool has_slept_out(const proto::Thread& expected, const proto::Thread& found) {
  const auto before = registers_of(expected);
  auto now = registers_of(found);
  if (!before || !now) return false;
  const std::int64_t call = arch::next_call(*before);
  const std::int64_t result = now->result();
  if (std::count(std::begin(kSleepingCalls), std::end(kSleepingCalls), call) == 0) return false;
  if (result != 0 && result != -ETIMEDOUT) return false;
  now->set_instruction_pointer(now->instruction_pointer() - arch::call_instruction().size());
  arch::set_next_call(*now, call);
  arch::set_argument(*now, 0, before->argument(0));  // some processors' results stand there
  return std::memcmp(&now->raw, &before->raw, sizeof(now->raw)) == 0;
}

void forget_ended_sleeps(const proto::Process& expected, proto::Process& found) {
  for (proto::Thread& thread : *found.mutable_threads()) {
    for (const proto::Thread& other : expected.threads()) {
      if (other.tid() != thread.tid() || !has_slept_out(other, thread)) continue;
      thread.set_general_registers(other.general_registers());
    }
  }
}

}  // namespace

std::vector<std::string> compare_processes(const proto::Process& expected,
                                           const proto::Process& found) {
  MessageDifferencer differencer;
  std::string text;
  differencer.ReportDifferencesToString(&text);
  for (const char* name : kMayDiffer) differencer.IgnoreField(field(name));
  // The order is that of making; a thread that was made late at the source was not made late here.
  differencer.TreatAsMap(field("godwit.proto.Process.threads"), field("godwit.proto.Thread.tid"));
  differencer.set_message_field_comparison(MessageDifferencer::EQUIVALENT);
  std::vector<std::string> lines;
  proto::Process joined_expected = expected;
  proto::Process joined_found = found;
  *joined_expected.mutable_mappings() = join_areas(without_page_size_hint(expected.mappings()));
  *joined_found.mutable_mappings() = join_areas(without_page_size_hint(found.mappings()));
  forget_new_timer_signals(expected, joined_found);
  forget_ended_sleeps(expected, joined_found);
  clear_bookkeeping(joined_expected);
  clear_bookkeeping(joined_found);
  if (!differencer.Compare(joined_expected, joined_found)) lines = lines_of(text);
  compare_divisions(expected.mappings(), found.mappings(), lines);
  for (std::string& line : compare_fd_tables(expected.fd_table(), found.fd_table())) {
    lines.push_back(std::move(line));
  }
  return lines;
}

}  // namespace godwit
