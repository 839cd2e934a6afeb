// Robust mutexes and the end of threads: what the kernel does for a thread that dies (marks the
// mutexes it held, clears its id and wakes who joins it) it must still do after a move.
#include <pthread.h>

#include <atomic>
#include <thread>
#include <vector>

#include "integration/workloads/selfcheck.h"

namespace {

using selfcheck::expect;
using selfcheck::expect_equal;

constexpr int kHeldForLong = 3;

class RobustMutex {
 public:
  RobustMutex() {
    pthread_mutexattr_t attributes;
    pthread_mutexattr_init(&attributes);
    pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
    pthread_mutex_init(&mutex_, &attributes);
  }
  int lock() { return pthread_mutex_lock(&mutex_); }
  int try_lock() { return pthread_mutex_trylock(&mutex_); }
  void mend() { expect_equal(pthread_mutex_consistent(&mutex_), 0, "pthread_mutex_consistent"); }
  void unlock() { expect_equal(pthread_mutex_unlock(&mutex_), 0, "pthread_mutex_unlock"); }

 private:
  pthread_mutex_t mutex_;
};

RobustMutex short_held;
RobustMutex long_held[kHeldForLong];
std::atomic<bool> stop{false};
std::atomic<bool> holding{false};
std::thread holder;

// Takes some mutexes for the whole run and dies with them.
void hold_for_long() {
  for (RobustMutex& mutex : long_held) expect_equal(mutex.lock(), 0, "lock");
  holding = true;
  while (!stop) selfcheck::sleep_ms(5);
}

void set_up() {
  holder = std::thread(hold_for_long);
  while (!holding) selfcheck::sleep_ms(1);
}

void turn() {
  std::atomic<bool> locked{false};
  std::thread dying([&] {
    expect_equal(short_held.lock(), 0, "lock");
    locked = true;
    selfcheck::sleep_ms(20);
  });
  while (!locked) selfcheck::sleep_ms(1);
  // Waits in the kernel until the other has died.
  expect_equal(short_held.lock(), EOWNERDEAD, "the mutex of a thread that died");
  short_held.mend();
  short_held.unlock();
  dying.join();
  expect_equal(short_held.lock(), 0, "the mended mutex");
  short_held.unlock();
  for (RobustMutex& mutex : long_held) {
    expect_equal(mutex.try_lock(), EBUSY, "a mutex that another thread holds");
  }
}

void final_check() {
  stop = true;
  holder.join();
  for (RobustMutex& mutex : long_held) {
    expect_equal(mutex.lock(), EOWNERDEAD, "the mutex of a thread that died");
    mutex.mend();
    mutex.unlock();
  }
}

}  // namespace

int main(int argc, char** argv) {
  return selfcheck::run_workload(argc, argv, set_up, turn, final_check);
}
