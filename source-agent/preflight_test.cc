#include "source-agent/preflight.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <functional>
#include <thread>

#include "common/base/error.h"
#include "common/base/unique_fd.h"
#include "common/kernel/proc_stat.h"
#include "source-agent/capture/task_identity.h"

namespace godwit {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

std::vector<std::string> ids(const Findings& findings) {
  std::vector<std::string> names;
  for (const proto::Finding& finding : findings) {
    EXPECT_FALSE(finding.object().empty());
    EXPECT_FALSE(finding.problem().empty());
    EXPECT_FALSE(finding.way_out().empty());
    names.push_back(finding.id());
  }
  return names;
}
std::vector<std::string> ids_of(pid_t pid) { return ids(preflight_process(pid)); }

// In a child of `parent`: it ends with that, also when that has ended already.
void die_with(pid_t parent) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (::getppid() != parent) ::_exit(1);
}

// A child that has done `body` and then waits to be killed.
class Child {
 public:
  explicit Child(const std::function<void()>& body) {
    int fds[2];
    if (::pipe2(fds, O_CLOEXEC) != 0) throw_system("pipe2");
    const UniqueFd ready(fds[0]);
    UniqueFd tell(fds[1]);
    const pid_t self = ::getpid();
    pid_ = ::fork();
    if (pid_ == 0) {
      die_with(self);
      body();
      const char byte = 1;
      if (::write(tell.get(), &byte, 1) != 1) ::_exit(1);
      for (;;) ::pause();
    }
    tell.reset();
    char byte = 0;
    if (::read(ready.get(), &byte, 1) != 1) fail("the child did not come up");
  }
  ~Child() {
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }
  pid_t pid() const { return pid_; }

 private:
  pid_t pid_;
};

// Until the process is in one of these states.
void wait_for_state(pid_t pid, const std::string& states) {
  for (int i = 0; i < 5000; ++i) {
    if (states.find(read_proc_stat(pid).state) != std::string::npos) return;
    ::usleep(1000);
  }
  FAIL() << "pid " << pid << " never came into " << states;
}

TEST(PreflightProcess, FindsNothingAgainstAnOrdinaryProcess) {
  const Child plain([] {});
  EXPECT_THAT(ids_of(plain.pid()), IsEmpty());
  const Child threaded([] { std::thread([] { ::pause(); }).detach(); });
  EXPECT_THAT(ids_of(threaded.pid()), IsEmpty());
}

TEST(PreflightProcess, WhatIsNoOrdinaryProcessIsReportedAlone) {
  EXPECT_THAT(ids_of(1), ElementsAre("pid-is-init"));
  EXPECT_THAT(ids_of(::getpid()), ElementsAre("pid-is-self"));
  EXPECT_THAT(ids_of(4194303), ElementsAre("no-such-pid"));
  pid_t gone = ::fork();
  if (gone == 0) ::_exit(0);
  siginfo_t info{};
  ::waitid(P_PID, static_cast<id_t>(gone), &info, WEXITED | WNOWAIT);
  EXPECT_THAT(ids_of(gone), ElementsAre("pid-is-zombie"));
  ::waitpid(gone, nullptr, 0);
  EXPECT_THAT(ids_of(gone), ElementsAre("no-such-pid"));
}

TEST(PreflightProcess, KnowsAKernelThread) {
  // Its line of /proc: in a pid namespace of its own a test sees no kernel thread.
  const ProcStat thread = parse_proc_stat(
      "2 (kthreadd) S 0 0 0 0 -1 2129984 0 0 0 0 0 1 0 0 20 0 1 0 24 0 0 18446744073709551615 0 0 "
      "0 0 0 0 0 2147483647 0 1 0 0 0 1 0 0 0 0 0 0 0 0 0 0 0 0 0");
  Findings findings;
  EXPECT_TRUE(refuse_kernel_thread(2, thread, findings));
  EXPECT_THAT(ids(findings), ElementsAre("pid-is-kernel-thread"));
  EXPECT_FALSE(refuse_kernel_thread(::getpid(), read_proc_stat(::getpid()), findings));
  EXPECT_THAT(findings, ::testing::SizeIs(1));
}

TEST(PreflightProcess, KnowsTheProcessesThatItWasStartedBy) {
  const pid_t parent = ::getppid();
  if (parent != 1 && parent != 0) {
    EXPECT_THAT(ids_of(parent), ElementsAre("pid-is-ancestor"));
  }
  // A child looks at its grandparent: this process.
  const pid_t self = ::getpid();
  const pid_t child = ::fork();
  if (child == 0) {
    const pid_t grandchild = ::fork();
    if (grandchild == 0) {
      const Findings findings = preflight_process(self);
      ::_exit(findings.size() == 1 && findings[0].id() == "pid-is-ancestor" ? 0 : 1);
    }
    int status = 0;
    ::waitpid(grandchild, &status, 0);
    ::_exit(WEXITSTATUS(status));
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  EXPECT_EQ(WEXITSTATUS(status), 0);
}

TEST(PreflightProcess, NamesTheProcessOfAThread) {
  pid_t tid = 0;
  int fds[2];
  ASSERT_EQ(::pipe2(fds, O_CLOEXEC), 0);
  const UniqueFd reading(fds[0]);
  const UniqueFd writing(fds[1]);
  const Child child([&] {
    std::thread([&] {
      const pid_t own = static_cast<pid_t>(::syscall(SYS_gettid));
      if (::write(writing.get(), &own, sizeof(own)) != sizeof(own)) ::_exit(1);
      ::pause();
    }).detach();
  });
  ASSERT_EQ(::read(reading.get(), &tid, sizeof(tid)), static_cast<ssize_t>(sizeof(tid)));
  const Findings findings = preflight_process(tid);
  EXPECT_THAT(ids(findings), ElementsAre("not-a-process"));
  EXPECT_THAT(findings.at(0).way_out(), HasSubstr(std::to_string(child.pid())));
}

TEST(PreflightProcess, KnowsAStoppedAndATracedProcess) {
  const Child stopped([] {});
  ::kill(stopped.pid(), SIGSTOP);
  wait_for_state(stopped.pid(), "T");
  EXPECT_THAT(ids_of(stopped.pid()), ElementsAre("pid-is-stopped"));
  const Child traced([] {});
  ASSERT_EQ(::ptrace(PTRACE_SEIZE, traced.pid(), nullptr, nullptr), 0);
  EXPECT_THAT(ids_of(traced.pid()), ElementsAre("already-traced"));
  ASSERT_EQ(::ptrace(PTRACE_INTERRUPT, traced.pid(), nullptr, nullptr), 0);
  ::waitpid(traced.pid(), nullptr, __WALL);
  ASSERT_EQ(::ptrace(PTRACE_DETACH, traced.pid(), nullptr, nullptr), 0);
  EXPECT_THAT(ids_of(traced.pid()), IsEmpty());
}

TEST(PreflightProcess, NamesChildrenAndSeesAVfork) {
  const Child parent([] {
    const pid_t self = ::getpid();
    if (::fork() == 0) {
      die_with(self);
      for (;;) ::pause();
    }
  });
  EXPECT_THAT(ids_of(parent.pid()), ElementsAre("process-has-children"));

  // The parent of a vfork sleeps in the call, so that it cannot say that it is ready.
  const pid_t sleeper = ::fork();
  if (sleeper == 0) {
    clone_args arguments{};
    arguments.flags = CLONE_VM | CLONE_VFORK;
    arguments.exit_signal = SIGCHLD;
    const pid_t self = ::getpid();
    if (::syscall(SYS_clone3, &arguments, sizeof(arguments)) == 0) {
      die_with(self);
      for (;;) ::pause();
    }
    ::_exit(0);
  }
  wait_for_state(sleeper, "D");
  const Findings findings = preflight_process(sleeper);
  EXPECT_THAT(ids(findings), ElementsAre("vfork-in-progress"));
  ::kill(sleeper, SIGKILL);
  ::waitpid(sleeper, nullptr, 0);
}

TEST(PreflightProcess, NamesEachForeignNamespace) {
  const std::vector<std::pair<int, std::string>> kinds{
      {CLONE_NEWNET, "foreign-network-namespace"},
      {CLONE_NEWIPC, "foreign-ipc-namespace"},
      {CLONE_NEWUTS, "foreign-uts-namespace"},
      {CLONE_NEWNS, "foreign-mount-namespace"},
      {CLONE_NEWCGROUP, "foreign-cgroup-namespace"}};
  for (const auto& [flag, id] : kinds) {
    const Child child([flag = flag] {
      if (::unshare(flag) != 0) ::_exit(1);
    });
    EXPECT_THAT(ids_of(child.pid()), Contains(id));
    EXPECT_THAT(ids_of(child.pid()), ::testing::SizeIs(1)) << id;
  }
}

// A process as it stands after a move: in a pid and mount namespace whose init has this name.
class Moved {
 public:
  explicit Moved(const char* init_name) {
    int fds[2];
    if (::pipe2(fds, O_CLOEXEC) != 0) throw_system("pipe2");
    const UniqueFd reading(fds[0]);
    UniqueFd writing(fds[1]);
    clone_args arguments{};
    arguments.flags = CLONE_NEWPID | CLONE_NEWNS;
    arguments.exit_signal = SIGCHLD;
    init_ = static_cast<pid_t>(::syscall(SYS_clone3, &arguments, sizeof(arguments)));
    if (init_ == 0) {
      ::prctl(PR_SET_NAME, init_name);
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      if (::fork() != 0) {
        for (;;) ::pause();
      }
      if (::write(writing.get(), "x", 1) != 1) ::_exit(1);
      for (;;) ::pause();
    }
    if (init_ < 0) throw_system("clone3");
    writing.reset();
    char byte = 0;
    if (::read(reading.get(), &byte, 1) != 1) fail("the namespace did not come up");
    const std::string path = fmt::format("/proc/{0}/task/{0}/children", init_);
    process_ = static_cast<pid_t>(std::stol(read_file(path)));
  }
  ~Moved() {
    ::kill(init_, SIGKILL);
    ::waitpid(init_, nullptr, 0);
  }
  pid_t process() const { return process_; }

 private:
  pid_t init_ = -1;
  pid_t process_ = -1;
};

TEST(PreflightProcess, TakesAProcessThatWasMovedHereBefore) {
  const Moved moved("godwit-init");
  EXPECT_THAT(ids_of(moved.process()), IsEmpty());
  const Moved container("other-init");
  EXPECT_THAT(ids_of(container.process()), ElementsAre("foreign-mount-namespace"));
}

TEST(PreflightThreadIds, ComparesWithTheDestinationsLargest) {
  proto::HostFeatures destination;
  destination.set_host_name("beta");
  Findings findings;
  preflight_thread_ids(::getpid(), destination, findings);  // not told
  destination.set_pid_max(static_cast<std::uint32_t>(::getpid()) + 1);
  preflight_thread_ids(::getpid(), destination, findings);
  EXPECT_THAT(ids(findings), IsEmpty());
  destination.set_pid_max(static_cast<std::uint32_t>(::getpid()));
  preflight_thread_ids(::getpid(), destination, findings);
  EXPECT_THAT(ids(findings), ElementsAre("thread-id-too-large"));
}

TEST(Refuses, CountsWarningsAsNone) {
  Findings findings;
  EXPECT_FALSE(refuses(findings));
  warn(findings, "id", "object", "problem", "way out");
  EXPECT_FALSE(refuses(findings));
  refuse(findings, "id", "object", "problem", "way out");
  EXPECT_TRUE(refuses(findings));
}

}  // namespace
}  // namespace godwit
