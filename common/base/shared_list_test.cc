#include "common/base/shared_list.h"

#include <gtest/gtest.h>

#include <chrono>

#include "common/base/error.h"

namespace godwit {
namespace {

using namespace std::chrono_literals;

// Lets the helper have at least `count` turns before the caller begins.
void await(const std::atomic<std::size_t>& turns, std::size_t count) {
  while (turns < count) std::this_thread::sleep_for(100us);
}

TEST(SharedListTest, EveryItemHasTheResultOfOneOfThem) {
  SharedList<std::size_t> list;
  for (const std::size_t count : {0, 1, 2, 1000, 100'000}) {
    for (int again = 0; again < 20; ++again) {
      list.begin(count, [](std::size_t at) { return at * 3; });
      const auto results = list.finish();
      ASSERT_EQ(results.size(), count);
      std::size_t missing = 0;
      for (std::size_t i = 0; i < count; ++i) {
        if (!results[i]) ++missing;
        EXPECT_EQ(results[i].value_or(i * 3), i * 3);
      }
      EXPECT_LE(missing, 1u);  // where they met
    }
  }
}

TEST(SharedListTest, NothingIsDoneTwice) {
  SharedList<int> list;
  for (int again = 0; again < 200; ++again) {
    std::vector<std::atomic<int>> turns(500);
    list.begin(turns.size(), [&](std::size_t at) { return ++turns[at]; });
    for (const auto& result : list.finish()) EXPECT_EQ(result.value_or(1), 1);
    // The helper may be in its last turn still; what it uses goes at the end of this one.
    while (turns.back() == 0 && turns.front() == 0) std::this_thread::yield();
    list.begin(0, {});
    std::this_thread::sleep_for(50us);
  }
}

TEST(SharedListTest, TheHelperDoesItAllWhereTheCallerComesLate) {
  std::atomic<std::size_t> turns = 0;
  SharedList<bool> list;
  list.begin(10, [&](std::size_t) {
    ++turns;
    return std::this_thread::get_id() != std::thread::id();
  });
  await(turns, 10);
  std::this_thread::sleep_for(5ms);
  for (const auto& result : list.finish()) EXPECT_TRUE(result.has_value());
  EXPECT_EQ(turns, 10u);
}

TEST(SharedListTest, TheCallerDoesNotWaitForAHelperThatIsStuck) {
  std::atomic<bool> go_on = false;
  std::atomic<std::size_t> turns = 0;
  const auto caller = std::this_thread::get_id();
  SharedList<int> list;
  list.begin(10, [&](std::size_t at) {
    ++turns;
    while (std::this_thread::get_id() != caller && !go_on) std::this_thread::sleep_for(1ms);
    return static_cast<int>(at);
  });
  await(turns, 1);
  const auto results = list.finish();
  for (std::size_t i = 0; i < 9; ++i) EXPECT_EQ(results[i], static_cast<int>(i));
  EXPECT_FALSE(results[9].has_value());
  go_on = true;
}

TEST(SharedListTest, WhatTheHelperThrowsLeavesTheRestToTheCaller) {
  const auto caller = std::this_thread::get_id();
  std::atomic<std::size_t> turns = 0;
  SharedList<int> list;
  list.begin(10, [&](std::size_t at) {
    if (std::this_thread::get_id() != caller && at == 7) {
      ++turns;
      fail("no");
    }
    return static_cast<int>(at);
  });
  await(turns, 1);
  const auto results = list.finish();
  for (std::size_t i = 0; i < 10; ++i) EXPECT_EQ(results[i].has_value(), i != 7);
}

TEST(SharedListTest, WhatIsThrownHereIsThrown) {
  const auto caller = std::this_thread::get_id();
  SharedList<int> list;
  list.begin(1000, [&](std::size_t) {
    if (std::this_thread::get_id() == caller) fail("no");
    std::this_thread::sleep_for(1ms);
    return 1;
  });
  EXPECT_THROW(list.finish(), Error);
}

}  // namespace
}  // namespace godwit
