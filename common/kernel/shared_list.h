// A list that two threads work off, from its two ends: what can be done while the caller has
// something else to do, if there is a processor for it.
//
// The helper is made with the object and sleeps in between, so that begin() starts no thread. It
// takes only what processors have left over (SCHED_IDLE). The caller waits for what the helper has
// begun and not ended when they meet, a single item, and lends it precedence for that: it may have
// lost its processor with a lock in its hands.
//
// Thread: begin(), finish() and withdraw() by one thread.
#pragma once

#include <sched.h>
#include <unistd.h>

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <system_error>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

#include "common/base/clock.h"
#include "common/base/log.h"
#include "common/base/scope_exit.h"
#include "common/kernel/precedence.h"

namespace godwit {

template <typename Result>
class SharedList {
  static_assert(!std::is_same_v<Result, bool>, "two threads can't write neighbours of it");

 public:
  enum class Party { kCaller, kHelper };
  using Work = std::function<Result(std::size_t at, Party who)>;

  // Nothing where the host has no room for one more thread (EAGAIN, pthread_create(3)).
  static std::unique_ptr<SharedList> try_make() {
    try {
      return std::make_unique<SharedList>();
    } catch (const std::system_error& error) {
      log_warning("one thread does the work of two: {}", error.what());
      return nullptr;
    }
  }

  SharedList() : helper_([this] { help(); }) {}
  SharedList(const SharedList&) = delete;
  SharedList& operator=(const SharedList&) = delete;
  // Waits until the helper has ended what it has begun.
  ~SharedList() {
    withdraw();
    {
      const std::scoped_lock lock(mutex_);
      over_ = true;
    }
    wake_.notify_all();
    std::optional<Precedence> precedence;  // on a busy host it would come to its end much later
    if (helper_tid_ != 0) precedence.emplace(Precedence::OfThread{helper_tid_});
    helper_.join();
  }

  // The helper begins with number `count` - 1. Both threads call `work` at a time, until finish()
  // has returned; what it throws in the helper ends the helper's part.
  void begin(std::size_t count, Work work) {
    withdraw();
    const auto job = std::make_shared<Job>(count, std::move(work));
    {
      const std::scoped_lock lock(mutex_);
      job_ = job;
    }
    last_ = job;
    wake_.notify_all();
  }

  // Does the rest. Throws what `work` throws here.
  std::vector<Result> finish() {
    const std::shared_ptr<Job> job = std::exchange(last_, nullptr);
    if (!job) return {};
    const ScopeExit no_more([&] { end(*job); });
    for (std::size_t at = 0; at < job->results.size(); ++at) {
      job->taken_to = at + 1;
      if (at >= job->begun_from) {
        await_helper(*job);
        if (at >= job->done_from) break;
      }
      job->results[at] = job->work(at, Party::kCaller);
    }
    return job->results;
  }

  // What is not done yet is not wanted: nobody calls `work` any more.
  void withdraw() {
    if (const std::shared_ptr<Job> job = std::exchange(last_, nullptr)) end(*job);
  }

 private:
  struct Job {
    Job(std::size_t count, Work how)
        : work(std::move(how)), results(count), begun_from(count), done_from(count) {}
    Work work;
    std::vector<Result> results;
    std::atomic<std::size_t> begun_from;    // the helper has begun all from here on
    std::atomic<std::size_t> done_from;     // and ended all from here on
    std::atomic<std::size_t> taken_to = 0;  // the caller has all before
    std::atomic<bool> stopped = false;      // the helper takes no more
  };

  // Both say first what they are about to take and look at the other's word then.
  static void work_off(Job& job) {
    while (job.done_from > 0) {
      const std::size_t at = job.done_from - 1;
      job.begun_from = at;
      if (at < job.taken_to) break;
      try {
        job.results[at] = job.work(at, Party::kHelper);
      } catch (const std::exception& error) {
        log_debug("a helper leaves its part to others: {}", error.what());
        break;
      }
      job.done_from = at;
    }
    job.stopped = true;
  }

  void end(Job& job) {
    job.taken_to = job.results.size();
    await_helper(job);
  }

  // Until it has ended what it has begun, or left it.
  void await_helper(const Job& job) {
    constexpr std::int64_t kSoonNs = 20'000;
    constexpr useconds_t kShortlyUs = 20;
    const auto is_busy = [&] { return job.done_from > job.begun_from && !job.stopped; };
    const std::int64_t began_ns = monotonic_ns();
    while (is_busy()) {
      if (monotonic_ns() - began_ns < kSoonNs) continue;
      const Precedence precedence(Precedence::OfThread{helper_tid_});
      while (is_busy()) ::usleep(kShortlyUs);
    }
  }

  void help() {
    helper_tid_ = ::gettid();
    const sched_param none{};
    if (::sched_setscheduler(0, SCHED_IDLE, &none) != 0) log_debug("SCHED_IDLE is not allowed");
    std::shared_ptr<Job> job;
    for (;;) {
      {
        std::unique_lock lock(mutex_);
        wake_.wait(lock, [&] { return over_ || (job_ && job_ != job); });
        if (over_) return;
        job = job_;
      }
      work_off(*job);
    }
  }

  std::mutex mutex_;  // of the next two
  std::condition_variable wake_;
  std::shared_ptr<Job> job_;
  bool over_ = false;
  std::shared_ptr<Job> last_;  // the caller's
  std::atomic<pid_t> helper_tid_ = 0;
  std::thread helper_;  // last: it uses the others
};

}  // namespace godwit
