// A walk over a large range that several threads share: the final look for written pages, which the
// kernel takes some 2 ns a page for, while the task stands still.
//
// The helpers take only what processors have left over (SCHED_IDLE): whoever describes the task
// meanwhile is not disturbed, and the caller never waits for a helper. It goes over its own part,
// then over those of the helpers from the other end, until it meets what they have done; a
// piece that a helper has begun and not ended is walked twice.
#pragma once

#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "common/base/page_range.h"

namespace godwit {

class SharedWalk {
 public:
  // Adds what there is in `piece`, in ascending order. Called by several threads at once.
  using Walk = std::function<void(const PageRange& piece, std::vector<PageRange>& found)>;

  // As many helpers as there are processors to spare for this process, at most three.
  static unsigned helpers_here();

  explicit SharedWalk(unsigned helpers);
  SharedWalk(const SharedWalk&) = delete;
  SharedWalk& operator=(const SharedWalk&) = delete;
  // Waits until the helpers have ended what they have begun.
  ~SharedWalk();

  // What was found in all of `range`, in ascending order. `walk` may be called until this object is
  // gone, or runs again. Throws what `walk` throws in the calling thread; where it throws in
  // another, the calling one walks there itself.
  std::vector<PageRange> run(const PageRange& range, Walk walk);

 private:
  struct Part;
  struct Job;
  void help(unsigned number);

  std::mutex mutex_;  // of the next three
  std::condition_variable wake_;
  std::shared_ptr<Job> job_;
  bool over_ = false;
  std::vector<std::thread> helpers_;
};

}  // namespace godwit
