#include "page-server/lazy_memory.h"

#include <gtest/gtest.h>
#include <poll.h>
#include <sys/mman.h>

#include <chrono>
#include <condition_variable>
#include <cstring>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

#include "common/base/error.h"
#include "common/kernel/userfaultfd.h"
#include "common/tracking/test_child.h"

namespace godwit {
namespace {

using testing::TestChild;

constexpr Address kBase = 0x550000000000;
constexpr std::uint32_t kSpace = 7;
constexpr std::chrono::seconds kPatience{10};

PageRange pages(std::uint64_t first, std::uint64_t count) {
  return {kBase + first * kPageSize, kBase + (first + count) * kPageSize};
}
Address page(std::uint64_t number) { return pages(number, 1).start; }

// What the source has at its addresses.
std::vector<std::uint64_t> source_words(const PageRange& range) {
  std::vector<std::uint64_t> words(range.bytes() / 8);
  for (std::size_t at = 0; at < words.size(); ++at) words[at] = range.start + 8 * at + 1;
  return words;
}
std::uint64_t source_hash(const PageRange& range) {
  return TestChild::hash_of(source_words(range));
}
std::uint64_t zero_hash(std::uint64_t page_count) {
  return TestChild::hash_of(std::vector<std::uint64_t>(page_count * kPageSize / 8));
}

// A process that misses pages, and a thread that serves it. Pages that are asked for wait for
// answer(), unless answers are automatic.
class LazyMemoryTest : public ::testing::Test {
 protected:
  ~LazyMemoryTest() override {
    if (server_.joinable()) {
      {
        const std::lock_guard lock(mutex_);
        stop_ = true;
      }
      server_.join();
    }
    memory_.close();  // before the child, which may wait
  }

  void serve(const std::vector<PageRange>& mapped, const std::vector<PageRange>& missing) {
    for (const PageRange& range : mapped) child_.map(range);
    UniqueFd uffd = child_.uffd(UFFD_FEATURE_EVENT_FORK | UFFD_FEATURE_EVENT_REMAP |
                                UFFD_FEATURE_EVENT_REMOVE | UFFD_FEATURE_EVENT_UNMAP);
    for (const PageRange& range : mapped) {
      userfaultfd_register(uffd.get(), range, UFFDIO_REGISTER_MODE_MISSING);
    }
    PageBitmap bitmap;
    for (const PageRange& range : missing) bitmap.set(range);
    memory_.add(kSpace, std::move(uffd), std::move(bitmap));
    server_ = std::thread([this] { run(); });
  }

  // Of the source's addresses.
  void place(const PageRange& range) {
    const std::vector<std::uint64_t> words = source_words(range);
    const std::lock_guard lock(mutex_);
    memory_.place(kSpace, range, reinterpret_cast<const std::byte*>(words.data()));
  }
  void place_zeros(const PageRange& range) {
    const std::lock_guard lock(mutex_);
    memory_.place(kSpace, range, nullptr);
  }
  void answer_all() {
    const std::lock_guard lock(mutex_);
    automatic_ = true;
  }
  // False: this kernel can't say that a page is lost.
  bool lose(const PageRange& range) {
    const std::lock_guard lock(mutex_);
    return memory_.lose(kSpace, range);
  }
  bool misses(const PageRange& range) {
    const std::lock_guard lock(mutex_);
    return memory_.misses(kSpace, range);
  }
  Address await_request() {
    std::unique_lock lock(mutex_);
    if (!asked_.wait_for(lock, kPatience, [&] { return !requests_.empty(); })) {
      ADD_FAILURE() << "no page is asked for";
      return 0;
    }
    const FaultRequest request = requests_.front();
    requests_.erase(requests_.begin());
    EXPECT_EQ(request.space, kSpace);
    return request.page;
  }
  bool await(const std::function<bool()>& condition) {
    const auto end = std::chrono::steady_clock::now() + kPatience;
    while (std::chrono::steady_clock::now() < end) {
      {
        const std::lock_guard lock(mutex_);
        if (condition()) return true;
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    return false;
  }
  std::uint64_t missing() {
    const std::lock_guard lock(mutex_);
    return memory_.missing_pages();
  }
  bool done() {
    const std::lock_guard lock(mutex_);
    return memory_.done();
  }
  std::uint64_t zero_faults() {
    const std::lock_guard lock(mutex_);
    return memory_.zero_faults();
  }
  std::uint64_t answered() {
    const std::lock_guard lock(mutex_);
    return memory_.latencies().count();
  }
  std::size_t asked() {
    const std::lock_guard lock(mutex_);
    return asked_count_;
  }
  std::uint64_t read(const PageRange& range) {
    child_.start_reading(range);
    return child_.finish_reading();
  }
  // Once all is placed: without the server, a missing page would be the kernel's zeros.
  std::uint64_t content(const PageRange& range) {
    const std::vector<std::byte> data = child_.read(range);
    std::vector<std::uint64_t> words(data.size() / 8);
    std::memcpy(words.data(), data.data(), data.size());
    return TestChild::hash_of(words);
  }

  void run() {
    for (;;) {
      std::vector<pollfd> waits;
      {
        const std::lock_guard lock(mutex_);
        if (stop_) return;
        for (const int fd : memory_.descriptors()) waits.push_back({fd, POLLIN, 0});
      }
      ::poll(waits.data(), waits.size(), 2);
      const std::lock_guard lock(mutex_);
      memory_.serve();
      while (const auto request = memory_.take_request()) {
        ++asked_count_;
        if (automatic_) {
          const PageRange range{request->page, request->page + kPageSize};
          const std::vector<std::uint64_t> words = source_words(range);
          memory_.place(request->space, range, reinterpret_cast<const std::byte*>(words.data()));
        } else {
          requests_.push_back(*request);
          asked_.notify_all();
        }
      }
    }
  }

  TestChild child_;
  std::mutex mutex_;
  std::condition_variable asked_;
  LazyMemory memory_;                   // this and all below guarded by mutex_
  std::vector<FaultRequest> requests_;  // that wait for an answer
  std::size_t asked_count_ = 0;
  bool automatic_ = false;
  bool stop_ = false;
  std::thread server_;
};

TEST_F(LazyMemoryTest, LostPagesAreMissingNoMore) {
  serve({pages(0, 8)}, {pages(0, 8)});
  place(pages(0, 2));
  EXPECT_FALSE(misses(pages(0, 2)));
  EXPECT_TRUE(misses(pages(1, 2)));
  if (lose(pages(2, 4))) {
    EXPECT_EQ(missing(), 2U);
    EXPECT_FALSE(misses(pages(2, 4)));
    place(pages(2, 4));  // comes after all, and is too late
  } else {
    EXPECT_EQ(missing(), 6U);
    EXPECT_TRUE(misses(pages(2, 4)));
  }
  place(pages(6, 2));
  EXPECT_EQ(read(pages(0, 2)), source_hash(pages(0, 2)));
  EXPECT_EQ(read(pages(6, 2)), source_hash(pages(6, 2)));
}

TEST_F(LazyMemoryTest, AFaultWaitsForItsPage) {
  serve({pages(0, 8)}, {pages(0, 8)});
  child_.start_reading(pages(3, 1));
  EXPECT_EQ(await_request(), page(3));
  EXPECT_EQ(missing(), 8u);
  place(pages(3, 1));
  EXPECT_EQ(child_.finish_reading(), source_hash(pages(3, 1)));
  EXPECT_EQ(answered(), 1u);
  EXPECT_EQ(zero_faults(), 0u);
  place(pages(0, 8));  // one of them is there
  EXPECT_TRUE(done());
  EXPECT_EQ(answered(), 1u);
  EXPECT_EQ(content(pages(0, 8)), source_hash(pages(0, 8)));
}

TEST_F(LazyMemoryTest, WhatIsThereIsNotOverwritten) {
  serve({pages(0, 2)}, {pages(0, 2)});
  place(pages(0, 1));
  child_.fill(pages(0, 1), 5);
  const std::uint64_t written = read(pages(0, 1));
  place(pages(0, 2));
  EXPECT_EQ(read(pages(0, 1)), written);
  EXPECT_EQ(read(pages(1, 1)), source_hash(pages(1, 1)));
}

TEST_F(LazyMemoryTest, MemoryThatWasNeverTouchedIsZero) {
  serve({pages(0, 8)}, {pages(0, 4)});
  EXPECT_EQ(read(pages(5, 2)), zero_hash(2));
  EXPECT_EQ(asked(), 0u);
  EXPECT_GT(zero_faults(), 0u);
  EXPECT_EQ(missing(), 4u);
}

TEST_F(LazyMemoryTest, AMissingPageMayBeZeros) {
  serve({pages(0, 4)}, {pages(0, 4)});
  child_.start_reading(pages(2, 1));
  EXPECT_EQ(await_request(), page(2));
  place_zeros(pages(0, 4));
  EXPECT_EQ(child_.finish_reading(), zero_hash(1));
  EXPECT_TRUE(done());
}

TEST_F(LazyMemoryTest, TwoThreadsOnOnePageAskOnce) {
  serve({pages(0, 4)}, {pages(0, 4)});
  child_.start_reading(pages(1, 1));
  child_.start_reading(pages(1, 1));
  EXPECT_EQ(await_request(), page(1));
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  place(pages(1, 1));
  EXPECT_EQ(child_.finish_reading(), source_hash(pages(1, 1)));
  EXPECT_EQ(child_.finish_reading(), source_hash(pages(1, 1)));
  EXPECT_EQ(asked(), 1u);
}

TEST_F(LazyMemoryTest, AForkedProcessMissesTheSame) {
  serve({pages(0, 8)}, {pages(0, 4)});
  answer_all();
  EXPECT_EQ(child_.read_in_fork(pages(0, 2)), source_hash(pages(0, 2)));
  EXPECT_EQ(asked(), 2u);
  // What was asked for by one is placed in both.
  EXPECT_EQ(read(pages(0, 2)), source_hash(pages(0, 2)));
  EXPECT_EQ(asked(), 2u);
  EXPECT_EQ(child_.read_in_fork(pages(4, 2)), zero_hash(2));
  // They have ended: nobody but the first one misses anything.
  place(pages(0, 4));
  EXPECT_TRUE(await([&] { return memory_.done(); }));
  EXPECT_EQ(missing(), 0u);
}

TEST_F(LazyMemoryTest, MovedPagesAreAskedForByTheirOldAddress) {
  serve({pages(0, 8)}, {pages(0, 8)});
  child_.move(pages(0, 4), page(100));
  child_.start_reading(pages(102, 1));
  EXPECT_EQ(await_request(), page(2));
  place(pages(2, 1));
  EXPECT_EQ(child_.finish_reading(), source_hash(pages(2, 1)));
  EXPECT_EQ(missing(), 7u);
  place(pages(0, 8));
  EXPECT_TRUE(done());
  EXPECT_EQ(content(pages(100, 4)), source_hash(pages(0, 4)));
  EXPECT_EQ(content(pages(4, 4)), source_hash(pages(4, 4)));
}

TEST_F(LazyMemoryTest, MovedThereAndBack) {
  serve({pages(0, 8)}, {pages(0, 8)});
  answer_all();
  child_.move(pages(0, 4), page(100));
  EXPECT_EQ(read(pages(101, 1)), source_hash(pages(1, 1)));
  child_.move(pages(100, 4), page(0));
  EXPECT_EQ(read(pages(0, 8)), source_hash(pages(0, 8)));
  EXPECT_TRUE(done());
  EXPECT_EQ(asked(), 8u);
}

TEST_F(LazyMemoryTest, MovedOntoOthers) {
  serve({pages(0, 4), pages(100, 4)}, {pages(0, 4), pages(100, 4)});
  child_.move(pages(0, 2), page(101));
  EXPECT_EQ(missing(), 6u);
  place(pages(100, 4));  // of the middle nothing is left
  EXPECT_EQ(missing(), 4u);
  place(pages(0, 4));
  EXPECT_TRUE(done());
  EXPECT_EQ(content(pages(100, 1)), source_hash(pages(100, 1)));
  EXPECT_EQ(content(pages(101, 2)), source_hash(pages(0, 2)));
  EXPECT_EQ(content(pages(103, 1)), source_hash(pages(103, 1)));
  EXPECT_EQ(content(pages(2, 2)), source_hash(pages(2, 2)));
}

TEST_F(LazyMemoryTest, PiecesOfPiecesAreMoved) {
  serve({pages(0, 8)}, {pages(0, 8)});
  child_.move(pages(0, 6), page(100));
  child_.move(pages(102, 2), page(200));
  child_.move(pages(201, 1), page(300));
  child_.map(pages(102, 2));
  EXPECT_EQ(missing(), 8u);
  child_.start_reading(pages(300, 1));
  EXPECT_EQ(await_request(), page(3));
  place(pages(0, 8));  // in one piece, to five places
  EXPECT_EQ(child_.finish_reading(), source_hash(pages(3, 1)));
  EXPECT_TRUE(done());
  EXPECT_EQ(content(pages(100, 2)), source_hash(pages(0, 2)));
  EXPECT_EQ(content(pages(102, 2)), zero_hash(2));
  EXPECT_EQ(content(pages(104, 2)), source_hash(pages(4, 2)));
  EXPECT_EQ(content(pages(200, 1)), source_hash(pages(2, 1)));
  EXPECT_EQ(content(pages(6, 2)), source_hash(pages(6, 2)));
}

TEST_F(LazyMemoryTest, AFaultThatWaitsWhileOthersTakeItsPlace) {
  serve({pages(0, 4), pages(100, 4)}, {pages(0, 4), pages(100, 4)});
  child_.start_reading(pages(1, 1));
  EXPECT_EQ(await_request(), page(1));
  child_.move(pages(100, 4), page(0));
  EXPECT_EQ(await_request(), page(101));  // woken up, it looked again
  place(pages(0, 4));                     // nobody's any more
  EXPECT_EQ(missing(), 4u);
  place(pages(100, 4));
  EXPECT_EQ(child_.finish_reading(), source_hash(pages(101, 1)));
  EXPECT_TRUE(done());
  EXPECT_EQ(content(pages(0, 4)), source_hash(pages(100, 4)));
}

TEST_F(LazyMemoryTest, WhatIsUnmappedIsMissingNoMore) {
  serve({pages(0, 8)}, {pages(0, 8)});
  child_.unmap(pages(2, 3));
  EXPECT_TRUE(await([&] { return memory_.missing_pages() == 5; }));
  child_.map(pages(2, 3));
  place(pages(0, 8));
  EXPECT_TRUE(done());
  EXPECT_EQ(content(pages(2, 3)), zero_hash(3));
  EXPECT_EQ(content(pages(5, 3)), source_hash(pages(5, 3)));
}

TEST_F(LazyMemoryTest, GivenBackWhileAFaultWaits) {
  serve({pages(0, 8)}, {pages(0, 8)});
  child_.start_reading(pages(3, 1));
  EXPECT_EQ(await_request(), page(3));
  child_.zap(pages(2, 3));
  EXPECT_EQ(child_.finish_reading(), zero_hash(1));  // without any answer
  EXPECT_EQ(missing(), 5u);
  place(pages(0, 8));  // the answer comes late
  EXPECT_TRUE(done());
  EXPECT_EQ(read(pages(2, 3)), zero_hash(3));
  EXPECT_EQ(content(pages(5, 3)), source_hash(pages(5, 3)));
}

TEST_F(LazyMemoryTest, GivenBackInAMovedPiece) {
  serve({pages(0, 8)}, {pages(0, 8)});
  child_.move(pages(0, 8), page(100));
  child_.zap(pages(103, 2));
  EXPECT_EQ(missing(), 6u);
  place(pages(0, 8));
  EXPECT_TRUE(done());
  EXPECT_EQ(read(pages(103, 2)), zero_hash(2));
  EXPECT_EQ(content(pages(105, 3)), source_hash(pages(5, 3)));
}

TEST_F(LazyMemoryTest, LayoutChangesWhilePagesArePlaced) {
  serve({pages(0, 2048)}, {pages(0, 2048)});
  std::thread background([&] {
    for (std::uint64_t at = 0; at < 2048; at += 16) place(pages(at, 16));
  });
  for (std::uint64_t round = 0; round < 100; ++round) {
    const std::uint64_t from = round % 2 == 0 ? 0 : 10000;
    child_.move(pages(from, 2048), page(10000 - from));
    child_.zap(pages(10000 - from + 2 * round, 1));
  }
  background.join();
  EXPECT_TRUE(done());
  for (std::uint64_t at = 0; at < 2048; ++at) {
    const bool zapped = at < 200 && at % 2 == 0;
    EXPECT_EQ(read(pages(at, 1)), zapped ? zero_hash(1) : source_hash(pages(at, 1))) << at;
  }
}

TEST_F(LazyMemoryTest, AfterTheEndNobodyMissesAnything) {
  serve({pages(0, 4)}, {pages(0, 4)});
  child_.start_reading(pages(1, 1));
  EXPECT_EQ(await_request(), page(1));
  child_.end();
  place(pages(0, 1));
  EXPECT_TRUE(done());
  EXPECT_EQ(missing(), 0u);
  EXPECT_TRUE(memory_.descriptors().empty());
}

TEST_F(LazyMemoryTest, AfterExecNobodyMissesAnything) {
  serve({pages(0, 4)}, {pages(0, 4)});
  EXPECT_THROW(child_.exec(), Error);  // nobody answers any more
  place(pages(0, 1));
  EXPECT_TRUE(done());
}

TEST_F(LazyMemoryTest, AnotherOneGoesOn) {
  const UniqueFd file(::memfd_create("ledger", MFD_CLOEXEC));
  memory_.keep_ledger(MissingLedger(duplicate_fd(file.get())));
  std::vector<LazyMemory::Held> held(1);
  memory_.tell_children([&](std::uint32_t parent, int uffd) {
    held.push_back({parent, duplicate_fd(uffd)});
  });
  serve({pages(0, 16)}, {pages(0, 16)});
  held[0].uffd = duplicate_fd(memory_.descriptors().at(0));
  child_.move(pages(8, 4), page(100));
  child_.zap(pages(2, 1));
  child_.start_reading_in_fork(pages(4, 2));
  EXPECT_EQ(await_request(), page(4));
  child_.start_reading(pages(101, 1));
  EXPECT_EQ(await_request(), page(9));
  place(pages(0, 2));
  {
    const std::lock_guard lock(mutex_);
    memory_ = LazyMemory();
    memory_.resume(std::move(held), MissingLedger(duplicate_fd(file.get())));
    EXPECT_EQ(memory_.missing_at_source(kSpace).count(), 13u);
    EXPECT_TRUE(memory_.missing_at_source(kSpace).contains(page(3)));
  }
  // Who waits is heard again.
  const Address first = await_request();
  const Address second = await_request();
  EXPECT_EQ(first + second, page(4) + page(9));
  answer_all();
  place(pages(3, 13));
  EXPECT_EQ(child_.finish_reading(), source_hash(pages(4, 2)));
  EXPECT_EQ(child_.finish_reading(), source_hash(pages(9, 1)));
  EXPECT_TRUE(await([&] { return memory_.missing_pages() == 0; }));
  EXPECT_EQ(read(pages(2, 1)), zero_hash(1));
  EXPECT_EQ(content(pages(100, 4)), source_hash(pages(8, 4)));
}

}  // namespace
}  // namespace godwit
