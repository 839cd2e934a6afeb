// For tests: a child process that sets something up and then waits, and the two ends of a move from
// one such process into another.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <functional>
#include <string>

#include "common/base/error.h"

namespace godwit {

inline constexpr int kTestPidfd = 200;  // of the test process, in every TestProcess

// Ended by the destructor.
class TestProcess {
 public:
  // `set_up` runs in the child, whose only descriptors are 0 to 2 on /dev/null and kTestPidfd. The
  // constructor returns when it is done. `act` runs in the child when act() is called.
  explicit TestProcess(const std::function<void()>& set_up, const std::function<void()>& act = {}) {
    shared_ = static_cast<Shared*>(
        mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
    new (shared_) Shared;
    pid_ = fork();
    if (pid_ == 0) run_child(set_up, act);
    wait_for(1);
  }
  ~TestProcess() {
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
    munmap(shared_, sizeof(Shared));
  }
  TestProcess(const TestProcess&) = delete;
  TestProcess& operator=(const TestProcess&) = delete;

  pid_t pid() const { return pid_; }
  // Runs `act` in the child and waits for it; the child must not be stopped.
  void act() {
    shared_->order = 1;
    wait_for(2);
  }

 private:
  struct Shared {
    std::atomic<int> state{0};
    std::atomic<int> order{0};
  };

  [[noreturn]] void run_child(const std::function<void()>& set_up,
                              const std::function<void()>& act) {
    close_range(0, ~0U, 0);
    open("/dev/null", O_RDWR);
    dup(0);
    dup(0);
    const int self = static_cast<int>(syscall(SYS_pidfd_open, getppid(), 0));
    fcntl(self, F_DUPFD_CLOEXEC, kTestPidfd);
    close(self);
    set_up();
    shared_->state = 1;
    for (;;) {
      if (shared_->order == 1) {
        act();
        shared_->order = 0;
        shared_->state = 2;
      }
      usleep(1000);
    }
  }
  void wait_for(int state) const {
    for (int i = 0; i < 5000 && shared_->state != state; ++i) {
      if (waitpid(pid_, nullptr, WNOHANG) == pid_) FAIL() << "the child ended";
      usleep(1000);
    }
    ASSERT_EQ(shared_->state, state);
  }

  Shared* shared_ = nullptr;
  pid_t pid_ = -1;
};

}  // namespace godwit
