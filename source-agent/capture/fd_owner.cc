#include "source-agent/capture/fd_owner.h"

#include "common/kernel/proc_status.h"

namespace godwit {
namespace {

// The id as the process sees it, or 0 when the owner is not of this process.
pid_t inner_owner(pid_t host_pid, const f_owner_ex& owner) {
  if (owner.type == F_OWNER_PGRP) {
    const ProcStatus own = read_proc_status(host_pid);
    if (own.namespace_groups.empty() || own.namespace_groups.front() != owner.pid) return 0;
    return own.namespace_groups.back();
  }
  const auto status = try_read_proc_status(fmt::format("/proc/{}/task/{}", host_pid, owner.pid));
  return status ? status->inner_pid() : 0;
}

}  // namespace

bool has_file_owner(int agent_fd) {
  f_owner_ex owner{};
  if (fcntl(agent_fd, F_GETOWN_EX, &owner) != 0) throw_system("F_GETOWN_EX of {}", agent_fd);
  return owner.pid != 0 || fcntl(agent_fd, F_GETSIG) != 0;
}

void capture_file_owner(const FdFacts& facts, proto::OpenFile& out, Findings& findings) {
  f_owner_ex owner{};
  if (fcntl(facts.copy.get(), F_GETOWN_EX, &owner) != 0)
    throw_system("F_GETOWN_EX of {}", facts.name());
  const int signal = fcntl(facts.copy.get(), F_GETSIG);
  if (signal < 0) throw_system("F_GETSIG of {}", facts.name());
  if (owner.pid == 0 && signal == 0) return;
  out.mutable_owner()->set_type(owner.type);
  out.mutable_owner()->set_signal(signal);
  if (owner.pid == 0) return;
  const pid_t inner = inner_owner(facts.host_pid, owner);
  if (inner == 0) {
    refuse(findings, "fd-owner-outside", facts.name(),
           fmt::format("process (or group) {} outside gets its signals (F_SETOWN)", owner.pid),
           "let the process own the descriptor itself");
  }
  out.mutable_owner()->set_pid(inner);
}

}  // namespace godwit
