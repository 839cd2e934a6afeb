// A list that two threads work off, from its two ends: what can be done while somebody else has
// something to do, if there is a processor for it.
//
// The helper is made with the object and sleeps in between, so that begin() starts no thread. The
// caller never waits for it: what the helper has begun and not ended when finish() gets there has
// no result, and the caller decides what to do about it.
//
// Thread: begin() and finish() by one thread.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "common/base/log.h"

namespace godwit {

template <typename Result>
class SharedList {
 public:
  using Work = std::function<Result(std::size_t)>;
  using Results = std::vector<std::optional<Result>>;

  SharedList() : helper_([this] { help(); }) {}
  SharedList(const SharedList&) = delete;
  SharedList& operator=(const SharedList&) = delete;
  // Waits until the helper has ended what it has begun.
  ~SharedList() {
    {
      const std::scoped_lock lock(mutex_);
      over_ = true;
      if (job_) job_->taken_to = job_->count;
    }
    wake_.notify_all();
    helper_.join();
  }

  // The helper begins with number `count` - 1. `work` may be called by both threads at a time, and
  // by the helper until this object is gone or begins again; what it throws there ends the helper's
  // part.
  void begin(std::size_t count, Work work) {
    const auto job = std::make_shared<Job>(count, std::move(work));
    {
      const std::scoped_lock lock(mutex_);
      job_ = job;
    }
    wake_.notify_all();
  }

  // Does the rest. Throws what `work` throws here.
  Results finish() {
    const std::shared_ptr<Job> job = job_;
    if (!job) return {};
    Results results(job->count);
    std::size_t at = 0;
    while (at < job->begun_from) {
      job->taken_to = at + 1;
      if (at >= job->begun_from) break;  // it was quicker
      results[at] = job->work(at);
      ++at;
    }
    for (std::size_t i = job->done_from; i < job->count; ++i) {
      results[i] = std::move(job->results[i]);
    }
    return results;
  }

 private:
  struct Job {
    Job(std::size_t of, Work how)
        : count(of), work(std::move(how)), results(of), begun_from(of), done_from(of) {}
    std::size_t count;
    Work work;
    std::vector<std::optional<Result>> results;  // the helper's
    std::atomic<std::size_t> begun_from;         // the helper has begun all from here on
    std::atomic<std::size_t> done_from;          // and ended all from here on
    std::atomic<std::size_t> taken_to = 0;       // the caller has all before
  };

  static void work_off(Job& job) {
    while (job.done_from > 0) {
      const std::size_t at = job.done_from - 1;
      job.begun_from = at;
      if (at < job.taken_to) {
        job.begun_from = at + 1;
        return;
      }
      job.results[at] = job.work(at);
      job.done_from = at;
    }
  }

  void help() {
    std::shared_ptr<Job> job;
    for (;;) {
      {
        std::unique_lock lock(mutex_);
        wake_.wait(lock, [&] { return over_ || (job_ && job_ != job); });
        if (over_) return;
        job = job_;
      }
      try {
        work_off(*job);
      } catch (const std::exception& error) {
        log_debug("a helper leaves its part to others: {}", error.what());
      }
    }
  }

  std::mutex mutex_;  // of the next two
  std::condition_variable wake_;
  std::shared_ptr<Job> job_;
  bool over_ = false;
  std::thread helper_;  // last: it uses the others
};

}  // namespace godwit
