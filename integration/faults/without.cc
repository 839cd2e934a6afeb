// without FEATURE[,FEATURE...] PROGRAM [ARGUMENT...]
//
// Runs a program as if the kernel lacked something: a seccomp filter (seccomp(2)), which children
// inherit, answers its system calls with an error.
#include <errno.h>
#include <linux/netlink.h>
#include <linux/prctl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <seccomp.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <sstream>
#include <string>

namespace {

// False when there is no such feature.
bool deny(scmp_filter_ctx filter, const std::string& feature) {
  const auto answer = [&](int error, const char* call) {
    return seccomp_rule_add(filter, SCMP_ACT_ERRNO(static_cast<unsigned>(error)),
                            seccomp_syscall_resolve_name(call), 0) == 0;
  };
  if (feature == "userfaultfd") return answer(EPERM, "userfaultfd");
  if (feature == "clone3") return answer(ENOSYS, "clone3");
  if (feature == "pidfd_getfd") return answer(ENOSYS, "pidfd_getfd");
  if (feature == "time-namespace") {
    return seccomp_rule_add(filter, SCMP_ACT_ERRNO(EINVAL), SCMP_SYS(unshare), 1,
                            SCMP_A0(SCMP_CMP_MASKED_EQ, CLONE_NEWTIME, CLONE_NEWTIME)) == 0;
  }
  if (feature == "set-mm") {
    return seccomp_rule_add(filter, SCMP_ACT_ERRNO(EINVAL), SCMP_SYS(prctl), 1,
                            SCMP_A0(SCMP_CMP_EQ, PR_SET_MM)) == 0;
  }
  if (feature == "nftables") {
    return seccomp_rule_add(filter, SCMP_ACT_ERRNO(EPROTONOSUPPORT), SCMP_SYS(socket), 2,
                            SCMP_A0(SCMP_CMP_EQ, AF_NETLINK),
                            SCMP_A2(SCMP_CMP_EQ, NETLINK_NETFILTER)) == 0;
  }
  if (feature == "tcp-repair") {
    return seccomp_rule_add(filter, SCMP_ACT_ERRNO(EPERM), SCMP_SYS(setsockopt), 2,
                            SCMP_A1(SCMP_CMP_EQ, IPPROTO_TCP),
                            SCMP_A2(SCMP_CMP_EQ, TCP_REPAIR)) == 0;
  }
  return false;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) {
    std::fprintf(stderr, "without FEATURE[,FEATURE...] PROGRAM [ARGUMENT...]\n");
    return 2;
  }
  scmp_filter_ctx filter = seccomp_init(SCMP_ACT_ALLOW);
  // Privileges stay as they are.
  if (filter == nullptr || seccomp_attr_set(filter, SCMP_FLTATR_CTL_NNP, 0) != 0) return 2;
  std::istringstream features(argv[1]);
  for (std::string feature; std::getline(features, feature, ',');) {
    if (deny(filter, feature)) continue;
    std::fprintf(stderr, "without: no feature %s\n", feature.c_str());
    return 2;
  }
  if (seccomp_load(filter) != 0) {
    std::fprintf(stderr, "without: seccomp_load failed\n");
    return 2;
  }
  seccomp_release(filter);
  execvp(argv[2], argv + 2);
  std::fprintf(stderr, "without: %s: %s\n", argv[2], std::strerror(errno));
  return 127;
}
