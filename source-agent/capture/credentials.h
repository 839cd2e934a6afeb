// Who the process acts as: /proc/PID/status for ids and capability sets, prctl(2) for the secure
// bits, which are shown nowhere else (credentials(7), capabilities(7)).
#pragma once

#include "common/model/describe.h"
#include "common/model/findings.h"
#include "proto/credentials.pb.h"

namespace godwit {

// The one row that cannot be answered from outside.
class CredentialsQuery {
 public:
  explicit CredentialsQuery(SyscallBatch& batch);
  void read(const BatchOutcome& outcome, pid_t host_pid, proto::Credentials& credentials) const;

 private:
  RowResult secure_bits_;
};

// Everything but the secure bits; the process may run. `directory` is /proc/PID or a thread's.
proto::Credentials describe_credentials(const std::string& directory);
proto::Credentials capture_credentials(CaptureContext& context);

// Refuses: thread-credentials (threads that differ), user-namespace. Warns: security-label.
void preflight_credentials(pid_t host_pid, Findings& findings);

}  // namespace godwit
