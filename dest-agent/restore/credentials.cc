#include "dest-agent/restore/credentials.h"

#include <linux/capability.h>
#include <linux/prctl.h>
#include <linux/securebits.h>
#include <sys/syscall.h>

#include <vector>

#include "common/base/error.h"
#include "common/kernel/proc_status.h"

namespace godwit {
namespace {

struct CapabilitySets {
  std::uint64_t effective = 0;
  std::uint64_t permitted = 0;
  std::uint64_t inheritable = 0;
};

void set_capabilities(const CapabilitySets& sets, SyscallBatch& batch) {
  const __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct data[2];
  for (int half = 0; half < 2; ++half) {
    data[half].effective = static_cast<std::uint32_t>(sets.effective >> (32 * half));
    data[half].permitted = static_cast<std::uint32_t>(sets.permitted >> (32 * half));
    data[half].inheritable = static_cast<std::uint32_t>(sets.inheritable >> (32 * half));
  }
  batch.add(SYS_capset, {batch.put_value(header), batch.put_value(data)}, "capabilities");
}

// The group ids. The process's own list of groups, even when it is empty.
void plan_groups(const proto::Credentials& want, SyscallBatch& batch) {
  std::vector<std::uint32_t> groups(want.groups().begin(), want.groups().end());
  const DataAt list = batch.put(std::as_bytes(std::span(groups)));
  batch.add(SYS_setgroups, {groups.size(), list}, "supplementary groups");
  batch.add(SYS_setresgid, {want.gid_real(), want.gid_effective(), want.gid_saved()}, "group ids");
  batch.add(SYS_setfsgid, {want.gid_filesystem()}, "filesystem group id");
}

std::string list_capabilities(std::uint64_t set) {
  std::string text;
  for (int capability = 0; capability < 64; ++capability) {
    if ((set >> capability & 1) == 0) continue;
    if (!text.empty()) text += ", ";
    text += fmt::format("{}", capability);
  }
  return text;
}

}  // namespace

CapabilitiesHere capabilities_here() {
  const ProcStatus status = read_proc_status("/proc/self");
  return {status.capabilities_permitted, status.capabilities_bounding};
}

void plan_credentials(const CapabilitiesHere& here, const proto::Credentials& want,
                      SyscallBatch& batch) {
  const std::uint64_t permitted = want.capabilities_permitted() & here.permitted;
  // What a task may inherit is bounded by the bounding set at the time it is set.
  const std::uint64_t inheritable = want.capabilities_inheritable() & here.bounding;
  // While the ids change, the capabilities must not: they are needed to the end.
  batch.add(SYS_prctl, {PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP, 0, 0, 0}, "secure bits");
  plan_groups(want, batch);
  set_capabilities({here.permitted, here.permitted, inheritable}, batch);
  for (int capability = 0; capability < 64; ++capability) {
    const std::uint64_t bit = 1ULL << capability;
    if ((here.bounding & ~want.capabilities_bounding() & bit) == 0) continue;
    batch.add(SYS_prctl, {PR_CAPBSET_DROP, capability, 0, 0, 0}, "bounding set");
  }
  batch.add(SYS_setresuid, {want.uid_real(), want.uid_effective(), want.uid_saved()}, "user ids");
  batch.add(SYS_setfsuid, {want.uid_filesystem()}, "filesystem user id");
  batch.add(SYS_prctl, {PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0}, "ambient set");
  for (int capability = 0; capability < 64; ++capability) {
    const std::uint64_t bit = 1ULL << capability;
    if ((want.capabilities_ambient() & permitted & inheritable & bit) == 0) continue;
    batch.add(SYS_prctl, {PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, capability, 0, 0}, "ambient set");
  }
  batch.add(SYS_prctl, {PR_SET_SECUREBITS, want.secure_bits(), 0, 0, 0}, "secure bits");
  set_capabilities({want.capabilities_effective() & permitted, permitted, inheritable}, batch);
  if (want.no_new_privileges()) {
    batch.add(SYS_prctl, {PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0}, "no_new_privs");
  }
}

void check_credentials(const CapabilitiesHere& here, const proto::Credentials& want,
                       Findings& findings) {
  const std::uint64_t missing =
      (want.capabilities_permitted() | want.capabilities_ambient()) & ~here.permitted;
  if (missing != 0) {
    warn(findings, "capability-missing", fmt::format("capabilities {}", list_capabilities(missing)),
         "the process has them, the destination agent does not, so they are lost",
         "start dest-agent with these capabilities");
  }
  const std::uint64_t narrowed = want.capabilities_bounding() & ~here.bounding & ~missing;
  if (narrowed != 0) {
    warn(findings, "bounding-set-narrowed",
         fmt::format("capabilities {}", list_capabilities(narrowed)),
         "the destination's bounding set lacks them: programs started later cannot get them",
         "start dest-agent with a full bounding set");
  }
}

}  // namespace godwit
