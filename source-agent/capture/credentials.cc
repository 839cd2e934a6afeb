#include "source-agent/capture/credentials.h"

#include <sys/prctl.h>
#include <sys/syscall.h>

#include "common/base/unique_fd.h"
#include "common/kernel/proc_status.h"
#include "common/kernel/proc_text.h"

namespace godwit {
namespace {

// The label of a security module; empty where there is none, and for AppArmor's "unconfined".
std::string read_security_label(const std::string& directory) {
  const UniqueFd file = try_open_file(directory + "/attr/current", O_RDONLY);
  if (!file.valid()) return {};
  std::string label(4096, '\0');
  const ssize_t size = ::read(file.get(), label.data(), label.size());
  if (size <= 0) return {};  // EINVAL: no module answers
  label.resize(static_cast<std::size_t>(size));
  while (!label.empty() && (label.back() == '\n' || label.back() == '\0')) label.pop_back();
  return label == "unconfined" ? std::string{} : label;
}

}  // namespace

proto::Credentials describe_credentials(const std::string& directory) {
  const ProcStatus status = read_proc_status(directory);
  proto::Credentials credentials;
  credentials.set_uid_real(status.uids[0]);
  credentials.set_uid_effective(status.uids[1]);
  credentials.set_uid_saved(status.uids[2]);
  credentials.set_uid_filesystem(status.uids[3]);
  credentials.set_gid_real(status.gids[0]);
  credentials.set_gid_effective(status.gids[1]);
  credentials.set_gid_saved(status.gids[2]);
  credentials.set_gid_filesystem(status.gids[3]);
  for (const std::uint32_t group : status.groups) credentials.add_groups(group);
  credentials.set_capabilities_inheritable(status.capabilities_inheritable);
  credentials.set_capabilities_permitted(status.capabilities_permitted);
  credentials.set_capabilities_effective(status.capabilities_effective);
  credentials.set_capabilities_bounding(status.capabilities_bounding);
  credentials.set_capabilities_ambient(status.capabilities_ambient);
  credentials.set_no_new_privileges(status.no_new_privileges);
  credentials.set_security_label(read_security_label(directory));
  return credentials;
}

CredentialsQuery::CredentialsQuery(SyscallBatch& batch)
    : secure_bits_(batch.add(SYS_prctl, {PR_GET_SECUREBITS, 0, 0, 0, 0}, "secure bits")) {}

void CredentialsQuery::read(const BatchOutcome& outcome, pid_t host_pid,
                            proto::Credentials& credentials) const {
  credentials = describe_credentials(fmt::format("/proc/{}", host_pid));
  credentials.set_secure_bits(static_cast<std::uint32_t>(outcome[secure_bits_]));
}

proto::Credentials capture_credentials(CaptureContext& context) {
  SyscallBatch batch;
  const CredentialsQuery query(batch);
  proto::Credentials credentials;
  query.read(context.task.run(batch), context.host_pid, credentials);
  return credentials;
}

namespace {

// Of a thread of a running process: nothing when it has ended.
std::optional<proto::Credentials> try_describe_credentials(const std::string& directory) {
  try {
    return describe_credentials(directory);
  } catch (const Error& error) {
    if (error.code() == ENOENT || error.code() == ESRCH) return std::nullopt;
    throw;
  }
}

}  // namespace

void preflight_credentials(pid_t host_pid, Findings& findings) {
  const std::string process = fmt::format("/proc/{}", host_pid);
  const proto::Credentials leader = describe_credentials(process);
  for (const pid_t tid : list_threads(host_pid)) {
    const std::string directory = fmt::format("{}/task/{}", process, tid);
    const auto credentials = try_describe_credentials(directory);
    if (!credentials) continue;
    if (credentials->SerializeAsString() != leader.SerializeAsString()) {
      refuse(findings, "thread-credentials", fmt::format("thread {}", tid),
             "it has other credentials than the process's first thread",
             "give all threads the same ids and capabilities");
    }
  }
  if (read_link(process + "/ns/user") != read_link("/proc/self/ns/user")) {
    refuse(findings, "user-namespace", fmt::format("pid {}", host_pid),
           "it lives in a user namespace of its own", "run it in the host's user namespace");
  }
  if (!leader.security_label().empty()) {
    warn(findings, "security-label", leader.security_label(),
         "a security module labels the process; the label is not carried",
         "the destination's own policy will label it");
  }
}

}  // namespace godwit
