// Threads in every common state: a ring that passes a token through futexes, waiters with a
// timeout, owners of robust mutexes, and short-lived ones that come and go all the time.
//   workload_many_threads STATUS-FILE STOP-FILE [THREADS]
#include <pthread.h>
#include <semaphore.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "integration/workloads/selfcheck.h"

namespace {

using selfcheck::expect;
using selfcheck::expect_equal;
using selfcheck::must;

thread_local uint64_t own_value = 0;
thread_local pid_t own_tid = 0;

void begin_thread(uint64_t value) {
  own_value = value;
  own_tid = static_cast<pid_t>(syscall(SYS_gettid));
  char name[16];
  snprintf(name, sizeof name, "t%llu", static_cast<unsigned long long>(value));
  pthread_setname_np(pthread_self(), name);
}

// Thread-local memory, the id and the name are the thread's as long as it lives.
void check_thread(uint64_t value) {
  expect_equal(own_value, value, "thread-local memory");
  expect_equal(syscall(SYS_gettid), own_tid, "gettid");
  char name[16];
  pthread_getname_np(pthread_self(), name, sizeof name);
  expect(std::string(name) == "t" + std::to_string(value), "the name of a thread");
}

// A token goes round; each holder adds one.
class Ring {
 public:
  explicit Ring(size_t threads) : gates_(threads) {
    for (sem_t& gate : gates_) must(sem_init(&gate, 0, 0), "sem_init");
  }

  void start(std::vector<std::thread>& threads) {
    for (size_t i = 0; i < gates_.size(); ++i) threads.emplace_back([this, i] { run(i); });
    sem_post(&gates_[0]);
  }

  void stop() { stopping_ = true; }
  uint64_t passes() const { return passes_; }

 private:
  void run(size_t index) {
    begin_thread(index);
    uint64_t seen = 0;
    for (;;) {
      while (sem_wait(&gates_[index]) != 0) expect(errno == EINTR, "sem_wait failed");
      check_thread(index);
      // Only the holder of the token touches these.
      expect_equal(token_, seen * gates_.size() + index, "the token");
      ++seen;
      ++token_;
      ++passes_;
      if (index == 0) selfcheck::sleep_ms(1);
      const bool last = stopping_ && index == 0;
      if (last) ended_ = true;
      const bool end = ended_;
      sem_post(&gates_[(index + 1) % gates_.size()]);
      if (end) return;
    }
  }

  std::vector<sem_t> gates_;
  uint64_t token_ = 0;
  bool ended_ = false;
  std::atomic<bool> stopping_ = false;
  std::atomic<uint64_t> passes_ = 0;
};

// Threads that are always being made and ending; each leaves its number plus one.
class Passers {
 public:
  void turn() {
    std::vector<uint64_t> results(4);
    std::vector<std::thread> threads;
    for (size_t i = 0; i < results.size(); ++i) {
      const uint64_t number = 100'000 + count_++ % 100'000;
      threads.emplace_back([&results, i, number] {
        begin_thread(number);
        selfcheck::sleep_ms(static_cast<int>(i));
        check_thread(number);
        results[i] = number + 1;
      });
    }
    for (size_t i = 0; i < results.size(); ++i) {
      threads[i].join();
      expect_equal(results[i], 100'000 + (count_ - 4 + i) % 100'000 + 1, "a thread's result");
    }
  }

 private:
  uint64_t count_ = 0;
};

// A robust mutex whose owner ends without unlocking: the next one is told.
class RobustMutex {
 public:
  RobustMutex() {
    pthread_mutexattr_t attributes;
    pthread_mutexattr_init(&attributes);
    pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
    pthread_mutex_init(&mutex_, &attributes);
    start_owner();
  }

  // The owner has held it since the last turn, over any move in between.
  void turn() {
    expect_equal(pthread_mutex_trylock(&mutex_), EBUSY, "a robust mutex that is held");
    release_ = true;
    owner_.join();
    expect_equal(pthread_mutex_lock(&mutex_), EOWNERDEAD, "the lock of a dead owner");
    expect_equal(pthread_mutex_consistent(&mutex_), 0, "pthread_mutex_consistent");
    expect_equal(pthread_mutex_unlock(&mutex_), 0, "unlock");
    start_owner();
  }

  void end() {
    release_ = true;
    owner_.join();
  }

 private:
  void start_owner() {
    release_ = false;
    held_ = false;
    owner_ = std::thread([this] {
      pthread_mutex_lock(&mutex_);
      held_ = true;
      while (!release_) selfcheck::sleep_ms(1);
    });
    while (!held_) selfcheck::sleep_ms(1);
  }

  pthread_mutex_t mutex_;
  std::thread owner_;
  std::atomic<bool> release_ = false;
  std::atomic<bool> held_ = false;
};

// Waits that end by their timeout, neither early nor never.
void wait_with_timeout(const std::atomic<bool>& stop) {
  sem_t never;
  must(sem_init(&never, 0, 0), "sem_init");
  while (!stop) {
    timespec until{};
    clock_gettime(CLOCK_MONOTONIC, &until);
    const int64_t deadline_ns = until.tv_sec * 1'000'000'000LL + until.tv_nsec + 20'000'000;
    until = {deadline_ns / 1'000'000'000, deadline_ns % 1'000'000'000};
    int result = 0;
    do {
      result = sem_clockwait(&never, CLOCK_MONOTONIC, &until);
    } while (result != 0 && errno == EINTR);
    expect(result != 0 && errno == ETIMEDOUT, "sem_clockwait");
    expect(selfcheck::now_ns(CLOCK_MONOTONIC) >= deadline_ns, "a timeout came early");
  }
}

}  // namespace

int main(int argc, char** argv) {
  const size_t count = argc > 3 ? strtoul(argv[3], nullptr, 10) : 32;
  Ring ring(count);
  Passers passers;
  std::unique_ptr<RobustMutex> robust;
  std::vector<std::thread> threads;
  std::atomic<bool> stop = false;
  uint64_t passes = 0;
  size_t turns = 0;

  const auto set_up = [&] {
    ring.start(threads);
    robust = std::make_unique<RobustMutex>();
    for (int i = 0; i < 4; ++i) threads.emplace_back([&stop] { wait_with_timeout(stop); });
  };
  const auto turn = [&] {
    passers.turn();
    if (++turns % 8 == 0) robust->turn();
    if (turns % 64 == 0) {
      expect(ring.passes() > passes, "the ring stands still");
      passes = ring.passes();
    }
  };
  const auto final_check = [&] {
    stop = true;
    ring.stop();
    robust->end();
    for (std::thread& thread : threads) thread.join();
  };
  return selfcheck::run_workload(std::min(argc, 3), argv, set_up, turn, final_check);
}
