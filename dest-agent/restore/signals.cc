#include "dest-agent/restore/signals.h"

#include <signal.h>
#include <sys/syscall.h>

#include <cstring>
#include <map>
#include <string>

#include "common/base/error.h"

namespace godwit {
namespace {

constexpr int kSignals = 64;
constexpr std::size_t kSignalSetBytes = 8;

struct KernelSignalAction {
  std::uint64_t handler = 0;
  std::uint64_t flags = 0;
  std::uint64_t restorer = 0;
  std::uint64_t mask = 0;
  friend bool operator==(const KernelSignalAction&, const KernelSignalAction&) = default;
};

std::map<int, KernelSignalAction> actions_of(const proto::Signals& signals) {
  std::map<int, KernelSignalAction> actions;
  for (const proto::SignalAction& action : signals.actions()) {
    if (action.signal() < 1 || action.signal() > kSignals) {
      fail("signal action for {}: no such signal", action.signal());
    }
    actions[action.signal()] = {action.handler(), action.flags(), action.restorer(), action.mask()};
  }
  return actions;
}

void set_action(int signal, const KernelSignalAction& action, SyscallBatch& batch) {
  batch.add(SYS_rt_sigaction, {signal, batch.put_value(action), 0, kSignalSetBytes},
            fmt::format("signal {}", signal));
}

}  // namespace

siginfo_t to_siginfo(const proto::PendingSignal& pending) {
  siginfo_t info{};
  if (pending.siginfo().size() != sizeof(info)) {
    fail("pending signal: {} bytes of siginfo, expected {}", pending.siginfo().size(),
         sizeof(info));
  }
  std::memcpy(&info, pending.siginfo().data(), sizeof(info));
  return info;
}

void plan_signal_defaults(SyscallBatch& batch) {
  const DataAt action = batch.put_value(KernelSignalAction{});
  for (int signal = 1; signal <= kSignals; ++signal) {
    if (signal == SIGKILL || signal == SIGSTOP) continue;
    batch.add(SYS_rt_sigaction, {signal, action, 0, kSignalSetBytes},
              fmt::format("signal {}", signal));
  }
}

void plan_signals(const proto::Signals& have, const proto::Signals& want, SyscallBatch& batch) {
  const auto before = actions_of(have);
  const auto after = actions_of(want);
  for (const auto& [signal, action] : before) {
    if (!after.contains(signal)) set_action(signal, {}, batch);
  }
  for (const auto& [signal, action] : after) {
    const auto old = before.find(signal);
    if (old == before.end() || !(old->second == action)) set_action(signal, action, batch);
  }
}

void plan_shared_pending(const proto::Signals& want, pid_t pid, SyscallBatch& batch) {
  for (const proto::PendingSignal& pending : want.pending()) {
    const siginfo_t info = to_siginfo(pending);
    batch.add(SYS_rt_sigqueueinfo, {pid, info.si_signo, batch.put_value(info)},
              fmt::format("pending signal {}", info.si_signo));
  }
}

void plan_pending(pid_t pid, pid_t tid,
                  const google::protobuf::RepeatedPtrField<proto::PendingSignal>& pending,
                  SyscallBatch& batch) {
  for (const proto::PendingSignal& signal : pending) {
    const siginfo_t info = to_siginfo(signal);
    batch.add(SYS_rt_tgsigqueueinfo, {pid, tid, info.si_signo, batch.put_value(info)},
              fmt::format("thread {}, pending signal {}", tid, info.si_signo));
  }
}

}  // namespace godwit
