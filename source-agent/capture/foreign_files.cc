#include "source-agent/capture/foreign_files.h"

#include <sys/socket.h>

namespace godwit {
namespace {

struct ForeignKind {
  const char* link_prefix;
  const char* id;
  const char* problem;
};

constexpr ForeignKind kForeignKinds[] = {
    {"anon_inode:inotify", "fd-inotify", "inotify watches cannot be moved yet"},
    {"anon_inode:[fanotify]", "fd-fanotify", "fanotify marks cannot be moved"},
    {"anon_inode:[io_uring]", "fd-io-uring", "io_uring instances cannot be moved yet"},
    {"anon_inode:[userfaultfd]", "fd-userfaultfd", "userfaultfd objects cannot be moved"},
    {"anon_inode:[pidfd]", "fd-pidfd", "pidfds cannot be moved yet"},
    {"pidfd:[", "fd-pidfd", "pidfds cannot be moved yet"},
    {"anon_inode:bpf", "fd-bpf", "BPF objects cannot be moved"},
    {"anon_inode:[perf_event]", "fd-perf-event", "perf events cannot be moved"},
    {"anon_inode:dmabuf", "fd-dmabuf", "buffers shared with a device cannot be moved"},
    {"anon_inode:sync_file", "fd-dmabuf", "device fences cannot be moved"},
    {"anon_inode:kvm", "fd-kvm", "virtual machines of KVM cannot be moved"},
    {"anon_inode:[landlock", "fd-landlock", "Landlock rule sets cannot be moved"},
    {"anon_inode:seccomp", "fd-seccomp-listener", "seccomp listeners cannot be moved"},
};

constexpr const char* kNamespaceKinds[] = {"net:[", "mnt:[", "pid:[",  "user:[",
                                           "uts:[", "ipc:[", "time:[", "cgroup:["};

constexpr const char* kCloseIt = "let the process close it";

}  // namespace

void refuse_foreign_file(const FdFacts& facts, Findings& findings) {
  for (const ForeignKind& kind : kForeignKinds) {
    if (!facts.link.starts_with(kind.link_prefix)) continue;
    refuse(findings, kind.id, facts.name(), kind.problem, kCloseIt);
    return;
  }
  for (const char* prefix : kNamespaceKinds) {
    if (!facts.link.starts_with(prefix)) continue;
    refuse(findings, "fd-namespace", facts.name(), "a handle of a namespace of this host",
           kCloseIt);
    return;
  }
  refuse(findings, "fd-unknown-kind", facts.name(), "this kind of descriptor cannot be moved",
         kCloseIt);
}

void refuse_foreign_socket(const FdFacts& facts, int family, int type, int protocol,
                           Findings& findings) {
  switch (family) {
    case AF_PACKET:
      refuse(findings, "fd-packet-socket", facts.name(), "packet sockets cannot be moved",
             kCloseIt);
      return;
    case AF_NETLINK:
      refuse(findings, "fd-netlink-socket", facts.name(), "netlink sockets cannot be moved yet",
             kCloseIt);
      return;
    case AF_INET:
    case AF_INET6:
      if (type == SOCK_RAW) {
        refuse(findings, "fd-raw-socket", facts.name(), "raw sockets cannot be moved", kCloseIt);
        return;
      }
      refuse(findings, "fd-socket-protocol", facts.name(),
             fmt::format("sockets of protocol {} cannot be moved, only TCP and UDP", protocol),
             kCloseIt);
      return;
    default:
      refuse(findings, "fd-socket-family", facts.name(),
             fmt::format("sockets of address family {} cannot be moved", family), kCloseIt);
  }
}

}  // namespace godwit
