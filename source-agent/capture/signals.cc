#include "source-agent/capture/signals.h"

#include <sys/syscall.h>

#include "common/kernel/proc_status.h"

namespace godwit {
namespace {

constexpr int kSignals = 64;
constexpr std::size_t kSignalSetBytes = 8;

bool has_action(int signal) { return signal != SIGKILL && signal != SIGSTOP; }

proto::PendingSignal to_message(const siginfo_t& info) {
  proto::PendingSignal message;
  message.set_siginfo(&info, sizeof(info));
  return message;
}

}  // namespace

SignalsQuery::SignalsQuery(SyscallBatch& batch)
    : actions_(batch.reserve(kSignals * sizeof(KernelSignalAction))) {
  for (int signal = 1; signal <= kSignals; ++signal) {
    if (!has_action(signal)) continue;
    const DataAt action = actions_ + (signal - 1) * sizeof(KernelSignalAction);
    batch.add(SYS_rt_sigaction, {signal, 0, action, kSignalSetBytes},
              fmt::format("signal {}", signal));
  }
}

void SignalsQuery::read(const BatchOutcome& outcome, proto::Signals& signals) const {
  for (int signal = 1; signal <= kSignals; ++signal) {
    if (!has_action(signal)) continue;
    const auto action =
        outcome.value<KernelSignalAction>(actions_ + (signal - 1) * sizeof(KernelSignalAction));
    if (action.handler == 0 && action.flags == 0 && action.mask == 0) continue;
    proto::SignalAction& message = *signals.add_actions();
    message.set_signal(signal);
    message.set_handler(action.handler);
    message.set_flags(action.flags);
    message.set_restorer(action.restorer);
    message.set_mask(action.mask);
  }
}

std::vector<proto::PendingSignal> describe_pending(const std::vector<siginfo_t>& queued,
                                                   std::uint64_t pending_bits) {
  std::vector<proto::PendingSignal> messages;
  std::uint64_t described = 0;
  for (const siginfo_t& info : queued) {
    if (info.si_signo < 1 || info.si_signo > kSignals) continue;
    described |= 1ULL << (info.si_signo - 1);
    if (has_action(info.si_signo)) messages.push_back(to_message(info));
  }
  for (int signal = 1; signal <= kSignals; ++signal) {
    const std::uint64_t bit = 1ULL << (signal - 1);
    if ((pending_bits & ~described & bit) == 0 || !has_action(signal)) continue;
    siginfo_t info{};
    info.si_signo = signal;
    info.si_code = SI_USER;
    messages.push_back(to_message(info));
  }
  return messages;
}

void capture_shared_pending(CaptureContext& context, proto::Signals& signals) {
  const std::uint64_t bits = read_proc_status(context.host_pid).pending_shared;
  if (bits == 0) return;
  for (proto::PendingSignal& pending :
       describe_pending(context.task.leader().pending_signals(true), bits)) {
    *signals.add_pending() = std::move(pending);
  }
}

proto::Signals capture_signals(CaptureContext& context) {
  SyscallBatch batch;
  const SignalsQuery query(batch);
  proto::Signals signals;
  query.read(context.task.run(batch), signals);
  capture_shared_pending(context, signals);
  return signals;
}

}  // namespace godwit
