// godwit-init: the parent that a restored process is cloned from.
//
// With a pid namespace of its own it is that namespace's init: it stays, reaps, and ends when its
// last child has ended, which takes the namespace along. Without one it is only the place of birth
// and is killed by the destination agent afterwards.
//
// It is small on purpose: a skeleton begins as a copy of its address space. It never runs code on
// the restored process's behalf; the agent makes the clone through ptrace while it waits here.
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>

#include <cerrno>

int main() {
  // Signals sent from inside the namespace have no effect on an init without handlers; those from
  // outside, but for SIGKILL, must not end the tree either.
  sigset_t all;
  sigfillset(&all);
  sigprocmask(SIG_SETMASK, &all, nullptr);

  bool had_child = false;
  for (;;) {
    if (waitpid(-1, nullptr, __WALL) > 0) {
      had_child = true;
      continue;
    }
    if (errno != ECHILD) continue;
    if (had_child) return 0;
    constexpr int kFirstChildPollMs = 20;
    poll(nullptr, 0, kFirstChildPollMs);
  }
}
