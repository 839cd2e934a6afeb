#include "common/tracking/shared_walk.h"

#include <sched.h>

#include <algorithm>
#include <atomic>
#include <exception>
#include <utility>

#include "common/base/log.h"

namespace godwit {
namespace {

constexpr std::uint64_t kPieceBytesMin = 32 << 20;
constexpr std::uint64_t kPiecesMax = 2048;
constexpr unsigned kHelpersMax = 3;

std::vector<PageRange> pieces_of(const PageRange& range) {
  const std::uint64_t step =
      std::max(kPieceBytesMin, range.bytes() / kPiecesMax / kPieceBytesMin * kPieceBytesMin);
  std::vector<PageRange> pieces;
  for (Address at = range.start; at < range.end;) {
    const Address end = range.end - at <= step ? range.end : (at / step + 1) * step;
    pieces.push_back(PageRange{at, end});
    at = end;
  }
  return pieces;
}

}  // namespace

// Of the pieces, what one thread begins with. A helper goes through it from the end.
struct SharedWalk::Part {
  std::size_t begin = 0;
  std::size_t end = 0;
  std::atomic<std::size_t> done_from = 0;  // its helper has all from here on
  std::atomic<std::size_t> taken_to = 0;   // the caller has all before
};

struct SharedWalk::Job {
  Job(std::vector<PageRange> all, Walk how, std::size_t parties)
      : walk(std::move(how)), pieces(std::move(all)), found(pieces.size()), parts(parties) {
    for (std::size_t i = 0; i < parties; ++i) {
      parts[i].begin = pieces.size() * i / parties;
      parts[i].end = pieces.size() * (i + 1) / parties;
      parts[i].done_from = parts[i].end;
      parts[i].taken_to = parts[i].begin;
    }
  }
  Walk walk;
  std::vector<PageRange> pieces;
  std::vector<std::vector<PageRange>> found;  // by the helpers
  std::vector<Part> parts;
};

unsigned SharedWalk::helpers_here() {
  cpu_set_t set;
  CPU_ZERO(&set);
  // More processors than the set has room for are more than enough.
  if (::sched_getaffinity(0, sizeof(set), &set) != 0) return kHelpersMax;
  return std::min(static_cast<unsigned>(CPU_COUNT(&set)) - 1, kHelpersMax);
}

SharedWalk::SharedWalk(unsigned helpers) {
  for (unsigned i = 0; i < helpers; ++i) helpers_.emplace_back([this, i] { help(i); });
}

SharedWalk::~SharedWalk() {
  {
    const std::scoped_lock lock(mutex_);
    over_ = true;
  }
  wake_.notify_all();
  for (std::thread& helper : helpers_) helper.join();
}

void SharedWalk::help(unsigned number) {
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
    Part& part = job->parts[number + 1];
    try {
      while (part.done_from > part.taken_to) {
        const std::size_t at = part.done_from - 1;
        job->walk(job->pieces[at], job->found[at]);
        part.done_from = at;
      }
    } catch (const std::exception& error) {
      log_debug("a helper leaves the walk to others: {}", error.what());
    }
  }
}

std::vector<PageRange> SharedWalk::run(const PageRange& range, Walk walk) {
  const auto job = std::make_shared<Job>(pieces_of(range), std::move(walk), helpers_.size() + 1);
  {
    const std::scoped_lock lock(mutex_);
    job_ = job;
  }
  wake_.notify_all();
  std::vector<PageRange> found;
  for (Part& part : job->parts) {
    std::size_t at = part.begin;
    while (at < part.done_from) {
      job->walk(job->pieces[at], found);
      part.taken_to = ++at;
    }
    for (; at < part.end; ++at) {
      found.insert(found.end(), job->found[at].begin(), job->found[at].end());
    }
  }
  return found;
}

}  // namespace godwit
