#include "dest-agent/kernel_probe.h"

#include <linux/prctl.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <functional>
#include <vector>

#include "common/base/error.h"
#include "common/base/unique_fd.h"
#include "common/kernel/pidfd.h"
#include "common/kernel/tcp_repair.h"
#include "common/kernel/userfaultfd.h"
#include "common/network/packet_hold.h"

namespace godwit {
namespace {

constexpr char kMissing[] = "kernel-feature-missing";

struct Feature {
  const char* id;
  const char* name;
  std::function<void()> attempt;  // throws Error
  const char* way_out;
};

// Waits for a child whose exit status is an errno.
void require_success(pid_t child, const char* what) {
  int status = 0;
  while (::waitpid(child, &status, 0) < 0) {
    if (errno != EINTR) throw_system("wait for a probe");
  }
  if (!WIFEXITED(status)) fail("{}: ended by signal {}", what, WTERMSIG(status));
  if (WEXITSTATUS(status) != 0) throw_errno(WEXITSTATUS(status), what);
}

void try_userfaultfd() { userfaultfd_enable(make_userfaultfd().get(), 0); }

void try_descriptor_copies() {
  const UniqueFd self = open_pidfd(::getpid());
  copy_fd_of(self, self.get());
}

// The first id of a new namespace is the only one that can be asked for without a conflict.
void try_chosen_ids() {
  const pid_t wanted = 1;
  clone_args arguments{};
  arguments.flags = CLONE_NEWPID;
  arguments.exit_signal = SIGCHLD;
  arguments.set_tid = reinterpret_cast<std::uint64_t>(&wanted);
  arguments.set_tid_size = 1;
  const auto child = static_cast<pid_t>(::syscall(SYS_clone3, &arguments, sizeof(arguments)));
  if (child < 0) throw_system("clone3");
  if (child == 0) ::_exit(0);
  require_success(child, "clone3");
}

void try_time_namespace() {
  const pid_t child = ::fork();
  if (child < 0) throw_system("fork");
  if (child == 0) ::_exit(::unshare(CLONE_NEWTIME) == 0 ? 0 : errno);
  require_success(child, "unshare");
}

void try_memory_layout() {
  unsigned int bytes = 0;
  if (::prctl(PR_SET_MM, PR_SET_MM_MAP_SIZE, &bytes, 0, 0) != 0) throw_system("prctl");
}

void try_tcp_repair() {
  const UniqueFd socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!socket.valid()) throw_system("socket");
  enter_tcp_repair(socket.get());
}

void try_packet_hold(const std::string& migration_id) { PacketHold(migration_id).prepare({}); }

bool has_sockets(const proto::Process& process) {
  const auto& files = process.fd_table().files();
  return std::any_of(files.begin(), files.end(), [](const proto::OpenFile& file) {
    return file.has_tcp_socket() || file.has_udp_socket();
  });
}

std::vector<Feature> features_for(const proto::Process& process, const std::string& migration_id,
                                  bool holds_packets) {
  std::vector<Feature> features{
      {kMissing, "userfaultfd(2)", try_userfaultfd,
       "a kernel with CONFIG_USERFAULTFD; give dest-agent CAP_SYS_PTRACE"},
      {kMissing, "pidfd_getfd(2)", try_descriptor_copies, "Linux 5.6 or later"},
      {kMissing, "clone3(2) with set_tid", try_chosen_ids,
       "a kernel with CONFIG_PID_NS and CONFIG_CHECKPOINT_RESTORE; give dest-agent "
       "CAP_CHECKPOINT_RESTORE and CAP_SYS_ADMIN"},
      {"no-time-namespace", "time_namespaces(7)", try_time_namespace,
       "a kernel with CONFIG_TIME_NS; give dest-agent CAP_SYS_ADMIN"},
      {kMissing, "prctl(PR_SET_MM_MAP)", try_memory_layout,
       "a kernel with CONFIG_CHECKPOINT_RESTORE"},
  };
  if (has_sockets(process)) {
    features.push_back({kMissing, "TCP_REPAIR", try_tcp_repair,
                        "a kernel with CONFIG_CHECKPOINT_RESTORE; give dest-agent CAP_NET_ADMIN"});
  }
  if (has_sockets(process) && holds_packets) {
    features.push_back(
        {kMissing, "nftables", [migration_id] { try_packet_hold(migration_id); },
         "a kernel with CONFIG_NF_TABLES_INET and CONFIG_NETFILTER_NETLINK_LOG; give "
         "dest-agent CAP_NET_ADMIN"});
  }
  return features;
}

}  // namespace

void probe_kernel(const proto::Process& process, const std::string& migration_id,
                  bool holds_packets, Findings& findings) {
  for (const Feature& feature : features_for(process, migration_id, holds_packets)) {
    try {
      feature.attempt();
    } catch (const Error& error) {
      refuse(findings, feature.id, feature.name,
             fmt::format("does not work on the destination: {}", error.what()),
             fmt::format("{}; a seccomp profile or a container around it may forbid it too",
                         feature.way_out));
    }
  }
}

}  // namespace godwit
