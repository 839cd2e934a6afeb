#include "common/kernel/agent_privileges.h"

#include <linux/capability.h>
#include <unistd.h>

#include <cstdint>

#include "common/base/error.h"
#include "common/kernel/proc_status.h"

namespace godwit {
namespace {

struct Capability {
  int number;
  const char* name;
};

constexpr Capability kNeeded[] = {
    {CAP_SYS_PTRACE, "CAP_SYS_PTRACE"},
    {CAP_SYS_ADMIN, "CAP_SYS_ADMIN"},
    {CAP_NET_ADMIN, "CAP_NET_ADMIN"},
    {CAP_NET_RAW, "CAP_NET_RAW"},
    {CAP_KILL, "CAP_KILL"},
    {CAP_DAC_OVERRIDE, "CAP_DAC_OVERRIDE"},
    {CAP_SETUID, "CAP_SETUID"},
    {CAP_SETGID, "CAP_SETGID"},
    {CAP_SETPCAP, "CAP_SETPCAP"},
};

}  // namespace

std::string missing_privileges() {
  if (::geteuid() != 0) return "it does not run as root";
  const std::uint64_t effective = read_proc_status(::getpid()).capabilities_effective;
  std::string missing;
  for (const Capability& capability : kNeeded) {
    if ((effective >> capability.number & 1) != 0) continue;
    missing += fmt::format("{}{}", missing.empty() ? "" : ", ", capability.name);
  }
  return missing.empty() ? missing : "it runs without " + missing;
}

}  // namespace godwit
