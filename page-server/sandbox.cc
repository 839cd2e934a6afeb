#include "page-server/sandbox.h"

#include <cap-ng.h>
#include <fcntl.h>
#include <linux/sockios.h>
#include <linux/userfaultfd.h>
#include <pwd.h>
#include <sched.h>
#include <seccomp.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <initializer_list>
#include <memory>

#include "common/base/unique_fd.h"
#include "common/kernel/pagemap.h"
#include "common/kernel/userfaultfd.h"

namespace godwit {
namespace {

constexpr uid_t kNobody = 65534;

// Needed by reading and placing pages, the socket, threads and the C library's allocator.
constexpr std::initializer_list<int> kAllowed{
    SCMP_SYS(read),
    SCMP_SYS(write),
    SCMP_SYS(readv),
    SCMP_SYS(writev),
    SCMP_SYS(pread64),
    SCMP_SYS(pwrite64),
    SCMP_SYS(preadv),
    SCMP_SYS(pwritev),
    SCMP_SYS(recvmsg),
    SCMP_SYS(sendmsg),
    SCMP_SYS(recvfrom),
    SCMP_SYS(sendto),
    SCMP_SYS(shutdown),
    SCMP_SYS(getpeername),
    SCMP_SYS(getsockopt),
    SCMP_SYS(setsockopt),
    SCMP_SYS(poll),
    SCMP_SYS(ppoll),
    SCMP_SYS(eventfd2),
    SCMP_SYS(close),
    SCMP_SYS(fcntl),
    SCMP_SYS(fstat),
    SCMP_SYS(fdatasync),
    SCMP_SYS(lseek),
    SCMP_SYS(ftruncate),
    SCMP_SYS(munmap),
    SCMP_SYS(mremap),
    SCMP_SYS(madvise),
    SCMP_SYS(brk),
    SCMP_SYS(futex),
    SCMP_SYS(set_robust_list),
    SCMP_SYS(rseq),
    SCMP_SYS(sched_yield),
    SCMP_SYS(sched_setattr),
    SCMP_SYS(sched_setscheduler),
    SCMP_SYS(sched_getscheduler),
    SCMP_SYS(getpriority),
    SCMP_SYS(sched_getaffinity),
    SCMP_SYS(membarrier),
    SCMP_SYS(clock_gettime),
    SCMP_SYS(clock_nanosleep),
    SCMP_SYS(nanosleep),
    SCMP_SYS(gettimeofday),
    SCMP_SYS(time),
    SCMP_SYS(getrandom),
    SCMP_SYS(getpid),
    SCMP_SYS(gettid),
    SCMP_SYS(getuid),
    SCMP_SYS(geteuid),
    SCMP_SYS(getgid),
    SCMP_SYS(getegid),
    SCMP_SYS(rt_sigaction),
    SCMP_SYS(rt_sigprocmask),
    SCMP_SYS(rt_sigreturn),
    SCMP_SYS(sigaltstack),
    SCMP_SYS(restart_syscall),
    SCMP_SYS(exit),
    SCMP_SYS(exit_group),
};

constexpr std::initializer_list<int> kDeadly{
    SCMP_SYS(execve),
    SCMP_SYS(execveat),
    SCMP_SYS(ptrace),
    SCMP_SYS(process_vm_readv),
    SCMP_SYS(process_vm_writev),
    SCMP_SYS(pidfd_getfd),
    SCMP_SYS(bpf),
    SCMP_SYS(io_uring_setup),
    SCMP_SYS(init_module),
    SCMP_SYS(finit_module),
    SCMP_SYS(mount),
    SCMP_SYS(unshare),
    SCMP_SYS(setns),
    SCMP_SYS(userfaultfd),
    SCMP_SYS(perf_event_open),
};

class Filter {
 public:
  Filter() : context_(seccomp_init(SCMP_ACT_ERRNO(EPERM)), seccomp_release) {
    if (!context_) fail("seccomp: no memory");
    check(seccomp_attr_set(context_.get(), SCMP_FLTATR_CTL_OPTIMIZE, 2), "binary tree");
  }
  template <typename... Comparisons>
  void add(std::uint32_t action, int call, Comparisons... comparisons) {
    check(seccomp_rule_add(context_.get(), action, call, sizeof...(comparisons), comparisons...),
          "rule");
  }
  void load() { check(seccomp_load(context_.get()), "load the filter"); }

 private:
  static void check(int result, const char* what) {
    if (result < 0) throw_errno(-result, fmt::format("seccomp: {}", what));
  }
  std::unique_ptr<void, void (*)(void*)> context_;
};

}  // namespace

void close_other_fds(int link_fd) {
  const UniqueFd null = open_file("/dev/null", O_RDWR);
  if (dup2(null.get(), 0) < 0 || dup2(null.get(), 1) < 0) throw_system("/dev/null");
  const auto close_between = [](unsigned first, unsigned last) {
    if (first <= last && close_range(first, last, 0) != 0) throw_system("close_range");
  };
  const auto link = static_cast<unsigned>(link_fd);
  if (link_fd <= 2) fail("the link cannot be descriptor {}", link_fd);
  close_between(3, link - 1);
  close_between(link + 1, ~0U);
}

void drop_privileges() {
  const pid_t parent = getppid();
  const rlimit no_core{0, 0};
  if (setrlimit(RLIMIT_CORE, &no_core) != 0) throw_system("give up core dumps");
  if (geteuid() == 0) {
    uid_t uid = kNobody;
    gid_t gid = kNobody;
    if (const passwd* user = getpwnam("godwit-pages"); user != nullptr && user->pw_uid != 0) {
      uid = user->pw_uid;
      gid = user->pw_gid;
    }
    capng_clear(CAPNG_SELECT_ALL);
    const int result =
        capng_change_id(static_cast<int>(uid), static_cast<int>(gid),
                        static_cast<capng_flags_t>(CAPNG_DROP_SUPP_GRP | CAPNG_CLEAR_BOUNDING |
                                                   CAPNG_CLEAR_AMBIENT));
    if (result != 0) fail("become uid {}: libcap-ng says {}", uid, result);
  }
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) throw_system("no_new_privs");
  if (prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) != 0) throw_system("not dumpable");
  // A change of identity clears it.
  if (prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) != 0) throw_system("death signal");
  if (getppid() != parent) fail("the agent is gone");
  if (capng_get_caps_process() != 0 || capng_have_capabilities(CAPNG_SELECT_CAPS) != CAPNG_NONE) {
    fail("capabilities are left after giving them up");
  }
}

void filter_system_calls(bool with_ring) {
  Filter filter;
  // Of a ring that was made before, which can do nothing but write.
  if (with_ring) filter.add(SCMP_ACT_ALLOW, SCMP_SYS(io_uring_enter));
  for (const int call : kAllowed) filter.add(SCMP_ACT_ALLOW, call);
  for (const int call : kDeadly) filter.add(SCMP_ACT_KILL_PROCESS, call);
  for (const unsigned long request :
       {pagemap::kScanRequest, static_cast<unsigned long>(UFFDIO_COPY),
        static_cast<unsigned long>(UFFDIO_ZEROPAGE), static_cast<unsigned long>(UFFDIO_WAKE),
        static_cast<unsigned long>(UFFDIO_WRITEPROTECT),
        static_cast<unsigned long>(UFFDIO_UNREGISTER), kUffdPoisonRequest,
        static_cast<unsigned long>(SIOCOUTQ)}) {
    filter.add(SCMP_ACT_ALLOW, SCMP_SYS(ioctl), SCMP_A1(SCMP_CMP_EQ, request, 0));
  }
  // Threads, not processes. clone3's flags are out of a filter's reach; without it the C library
  // uses clone.
  constexpr scmp_datum_t kThread = CLONE_VM | CLONE_THREAD | CLONE_SIGHAND;
  filter.add(SCMP_ACT_ALLOW, SCMP_SYS(clone), SCMP_A0(SCMP_CMP_MASKED_EQ, kThread, kThread));
  filter.add(SCMP_ACT_ERRNO(ENOSYS), SCMP_SYS(clone3));
  for (const int call : {SCMP_SYS(mmap), SCMP_SYS(mprotect)}) {
    filter.add(SCMP_ACT_ALLOW, call, SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
  }
  filter.load();
}

}  // namespace godwit
