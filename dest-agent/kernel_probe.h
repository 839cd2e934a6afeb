// Tries what restoring needs of this host's kernel, on objects of its own: neither a version nor a
// configuration says what a security policy, a container or a cut-down set of capabilities leaves
// of it.
#pragma once

#include <string>

#include "common/model/findings.h"
#include "proto/snapshot.pb.h"

namespace godwit {

// Refuses with kernel-feature-missing, once for each of userfaultfd(2), pidfd_getfd(2), clone3(2)
// with set_tid in a new pid namespace, prctl(PR_SET_MM_MAP), and for what has sockets TCP_REPAIR
// and nftables with nfnetlink_log; with no-time-namespace for time_namespaces(7). `migration_id`
// names the table that is tried. Forks; the caller has one thread.
void probe_kernel(const proto::Process& process, const std::string& migration_id,
                  bool holds_packets, Findings& findings);

}  // namespace godwit
