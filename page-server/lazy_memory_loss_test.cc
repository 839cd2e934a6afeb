#include <errno.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "common/base/clock.h"
#include "common/kernel/userfaultfd.h"
#include "common/tracking/test_child.h"
#include "page-server/lazy_memory.h"

namespace godwit {
namespace {

using testing::TestChild;

constexpr Address kBase = 0x550000000000;
constexpr std::int64_t kPatienceNs = 10'000'000'000;

PageRange pages(std::uint64_t first, std::uint64_t count) {
  return {kBase + first * kPageSize, kBase + (first + count) * kPageSize};
}

// A process of which some pages never come; served by the test's own thread.
class LazyMemoryLossTest : public ::testing::Test {
 protected:
  LazyMemoryLossTest() {
    child_.map(pages(0, 64));
    UniqueFd uffd =
        child_.uffd(UFFD_FEATURE_EVENT_FORK | UFFD_FEATURE_EVENT_REMAP | UFFD_FEATURE_EVENT_REMOVE |
                    UFFD_FEATURE_EVENT_UNMAP | UFFD_FEATURE_THREAD_ID);
    userfaultfd_register(uffd.get(), pages(0, 64), UFFDIO_REGISTER_MODE_MISSING);
    PageBitmap missing;
    missing.set(pages(8, 16));
    missing.set(pages(40, 4));
    memory_.add(0, std::move(uffd), std::move(missing));
  }
  ~LazyMemoryLossTest() override { child_.end(); }

  template <typename Condition>
  bool serve_until(Condition condition) {
    const std::int64_t end_ns = monotonic_ns() + kPatienceNs;
    while (monotonic_ns() < end_ns) {
      memory_.serve();
      if (condition()) return true;
      ::usleep(1000);
    }
    return false;
  }
  bool somebody_waits() {
    return serve_until([&] {
      const auto missing = memory_.name_missing();
      return std::ranges::any_of(missing, [](const auto& each) { return !each.waiting.empty(); });
    });
  }
  // Whether a page of the child can be read from outside, which does not wait.
  bool is_readable(Address page) const {
    char byte = 0;
    return ::pread(child_.memory_fd(), &byte, 1, static_cast<off_t>(page)) == 1;
  }

  TestChild child_;
  LazyMemory memory_;
};

TEST_F(LazyMemoryLossTest, WhatIsMissingIsNamedWithWhoWaits) {
  child_.start_reading(pages(9, 1));
  ASSERT_TRUE(somebody_waits());
  const auto named = memory_.name_missing();
  ASSERT_EQ(named.size(), 1U);
  EXPECT_EQ(named[0].space, 0U);
  EXPECT_EQ(named[0].ranges, (std::vector{pages(8, 16), pages(40, 4)}));
  ASSERT_EQ(named[0].waiting.size(), 1U);
  EXPECT_GT(named[0].waiting[0].first, child_.pid());
  EXPECT_EQ(named[0].waiting[0].second, pages(9, 1).start);
}

TEST_F(LazyMemoryLossTest, WhatIsGivenUpIsSigbus) {
  if (!can_poison()) GTEST_FAIL() << "this kernel has no UFFDIO_POISON";
  const std::vector<std::byte> page(kPageSize, std::byte{7});
  memory_.place(0, pages(10, 1), page.data());
  const LazyMemory::Poisoned poisoned = memory_.poison();
  EXPECT_EQ(poisoned.code, 0);
  EXPECT_EQ(poisoned.pages, 19U);
  EXPECT_TRUE(memory_.done());
  EXPECT_TRUE(memory_.name_missing().empty());
  memory_.close();
  EXPECT_TRUE(is_readable(pages(10, 1).start));
  EXPECT_FALSE(is_readable(pages(8, 1).start));
  child_.clear(pages(0, 8));
  try {
    child_.start_reading(pages(9, 1));
  } catch (const Error&) {  // it may have died before it could say that it began
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child_.pid(), &status, 0), child_.pid());
  EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGBUS) << status;
}

TEST_F(LazyMemoryLossTest, AForkedChildIsNamedAndGivenUpToo) {
  child_.start_reading_in_fork(pages(12, 1));
  ASSERT_TRUE(somebody_waits());
  const auto named = memory_.name_missing();
  ASSERT_EQ(named.size(), 2U);
  EXPECT_TRUE(named[0].waiting.empty());
  ASSERT_EQ(named[1].waiting.size(), 1U);
  EXPECT_EQ(named[1].waiting[0].second, pages(12, 1).start);
  EXPECT_EQ(memory_.poison().pages, 40U);
  EXPECT_EQ(child_.finish_reading(), 0U) << "the forked child did not end";
}

TEST_F(LazyMemoryLossTest, WhoHasEndedMissesNothing) {
  memory_.notice_ended();
  EXPECT_FALSE(memory_.done());
  child_.end();
  memory_.notice_ended();
  EXPECT_TRUE(memory_.done());
}

}  // namespace
}  // namespace godwit
