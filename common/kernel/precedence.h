// Precedence over all ordinary work of the host, for the milliseconds of a blackout: real-time
// scheduling (sched(7), SCHED_FIFO with the lowest priority). A thread that has it is let on at
// once when a message wakes it up, however busy the processors are.
#pragma once

#include <sched.h>
#include <sys/types.h>

#include <string>
#include <vector>

namespace godwit {

// Given as long as the object lives; what the threads start meanwhile does not have it. Where the
// host forbids it (no CAP_SYS_NICE, no real-time share for the control group) nothing changes.
class Precedence {
 public:
  // For the calling thread.
  Precedence() noexcept;
  // For one ordinary thread of a program; one that has a real-time policy keeps it.
  struct OfThread {
    pid_t tid;
  };
  explicit Precedence(OfThread thread);
  // For all threads that the process has now, but those that want only what is left over
  // (SCHED_IDLE). Throws Error when its threads can't be listed.
  explicit Precedence(pid_t process);
  Precedence(const Precedence&) = delete;
  Precedence& operator=(const Precedence&) = delete;
  ~Precedence();

 private:
  struct Before {
    pid_t thread = 0;
    int policy = 0;
    sched_param param{};
    std::string timer_slack;  // which a real-time policy resets; empty: nobody will miss it
  };
  void give(pid_t thread);

  std::vector<Before> threads_;
};

// For a thread of `process` as long as it wants, in place of what it had: a program without the
// right to it asks one that has. Nothing for a thread of any other process, or where the host
// forbids it.
void lend_precedence(pid_t process, pid_t thread, bool precedence) noexcept;

// True for the calling thread while somebody gives it precedence.
bool has_precedence() noexcept;

}  // namespace godwit
