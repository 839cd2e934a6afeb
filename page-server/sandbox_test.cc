// In children of the test: what is given away here does not come back.
#include "page-server/sandbox.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/userfaultfd.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <functional>
#include <thread>

#include "common/base/error.h"

namespace godwit {
namespace {

// The wait status of a child that ran `body` in the sandbox; its result is the exit code.
int status_of(const std::function<int()>& body) {
  const pid_t pid = fork();
  if (pid == 0) {
    try {
      drop_privileges();
      filter_system_calls();
      _exit(body());
    } catch (const Error&) {
      _exit(99);
    }
  }
  int status = 0;
  waitpid(pid, &status, 0);
  return status;
}

int refused(long result) { return result == -1 && errno == EPERM ? 0 : 1; }

TEST(Sandbox, WhatIsNotNeededIsForbidden) {
  const int status = status_of([] {
    if (refused(open("/dev/null", O_RDONLY)) != 0) return 1;
    if (refused(socket(AF_INET, SOCK_STREAM, 0)) != 0) return 2;
    if (refused(fork()) != 0) return 3;
    if (refused(setuid(0)) != 0) return 4;
    if (refused(ioctl(0, TIOCSTI, "x")) != 0) return 5;
    if (refused(kill(getppid(), 0)) != 0) return 6;
    void* code = mmap(nullptr, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (code != MAP_FAILED) return 7;
    return 0;
  });
  ASSERT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 0);
}

TEST(Sandbox, WhatIsNeededWorks) {
  const int status = status_of([] {
    int done = 0;
    std::thread([&] { done = 1; }).join();
    if (done != 1) return 1;
    void* memory =
        mmap(nullptr, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) return 2;
    uffdio_copy copy{};
    if (ioctl(0, UFFDIO_COPY, &copy) == 0 || errno == EPERM)
      return 3;  // no userfaultfd, but let in
    return getuid() != 0 ? 0 : 4;
  });
  ASSERT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 0);
}

TEST(Sandbox, AHijackedProcessDies) {
  const int status = status_of([] {
    char* const nothing[] = {nullptr};
    execve("/bin/true", nothing, nothing);
    return 0;
  });
  ASSERT_TRUE(WIFSIGNALED(status));
  EXPECT_EQ(WTERMSIG(status), SIGSYS);
}

}  // namespace
}  // namespace godwit
