#include "dest-agent/restore/rlimits.h"

#include <linux/capability.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <map>

#include "common/base/error.h"
#include "common/kernel/proc_limits.h"
#include "common/kernel/proc_status.h"

namespace godwit {
namespace {

struct Limit {
  std::uint64_t soft = 0;
  std::uint64_t hard = 0;
  friend bool operator==(const Limit&, const Limit&) = default;
};

std::map<std::uint32_t, Limit> limits_of(const proto::Rlimits& rlimits) {
  std::map<std::uint32_t, Limit> limits;
  for (const proto::Rlimit& limit : rlimits.limits()) {
    limits[limit.resource()] = {limit.soft(), limit.hard()};
  }
  return limits;
}

std::string name_of(std::uint32_t resource) {
  return fmt::format("limit on {}", limit_name(static_cast<int>(resource)));
}

void set_limit(std::uint32_t resource, const Limit& limit, SyscallBatch& batch) {
  batch.add(SYS_prlimit64, {0, resource, batch.put_value(limit), 0}, name_of(resource));
}

}  // namespace

proto::Rlimits rlimits_here() {
  proto::Rlimits rlimits;
  for (const ProcLimit& limit : read_proc_limits(::getpid())) {
    proto::Rlimit& message = *rlimits.add_limits();
    message.set_resource(static_cast<std::uint32_t>(limit.resource));
    message.set_soft(limit.soft);
    message.set_hard(limit.hard);
  }
  return rlimits;
}

bool may_raise_hard_limits() {
  return (read_proc_status("/proc/self").capabilities_effective >> CAP_SYS_RESOURCE & 1) != 0;
}

void plan_rlimits_for_building(const proto::Rlimits& here, SyscallBatch& batch) {
  const auto limits = limits_of(here);
  const auto files = limits.find(RLIMIT_NOFILE);
  if (files == limits.end() || files->second.soft == files->second.hard) return;
  set_limit(RLIMIT_NOFILE, {files->second.hard, files->second.hard}, batch);
}

void plan_rlimits(const proto::Rlimits& have, const proto::Rlimits& want, bool may_raise,
                  SyscallBatch& batch) {
  const auto before = limits_of(have);
  for (const auto& [resource, wanted] : limits_of(want)) {
    const auto old = before.find(resource);
    Limit limit = wanted;
    if (old != before.end()) {
      if (!may_raise) limit.hard = std::min(limit.hard, old->second.hard);
      limit.soft = std::min(limit.soft, limit.hard);
      // Descriptors may have been raised for building: always set again.
      if (limit == old->second && resource != RLIMIT_NOFILE) continue;
    }
    set_limit(resource, limit, batch);
  }
}

void check_rlimits(const proto::Rlimits& here, const proto::Rlimits& want, bool may_raise,
                   Findings& findings) {
  const auto limits = limits_of(here);
  if (may_raise) return;
  for (const auto& [resource, wanted] : limits_of(want)) {
    const auto own = limits.find(resource);
    if (own == limits.end() || wanted.hard <= own->second.hard) continue;
    warn(findings, "rlimit-narrowed", name_of(resource),
         fmt::format("the process may have {}, the destination agent only {}", wanted.hard,
                     own->second.hard),
         "start dest-agent with higher limits, or with CAP_SYS_RESOURCE");
  }
}

}  // namespace godwit
