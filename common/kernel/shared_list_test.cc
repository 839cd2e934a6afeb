#include "common/kernel/shared_list.h"

#include <gtest/gtest.h>

#include <chrono>

#include "common/base/error.h"

namespace godwit {
namespace {

using namespace std::chrono_literals;
using List = SharedList<std::size_t>;

// Lets the helper have at least `count` turns before the caller begins.
void await(const std::atomic<std::size_t>& turns, std::size_t count) {
  while (turns < count) std::this_thread::sleep_for(100us);
}

TEST(SharedListTest, EveryItemIsDoneOnce) {
  List list;
  for (const std::size_t count : {0, 1, 2, 50, 20'000}) {
    for (int again = 0; again < 50; ++again) {
      std::vector<std::atomic<int>> turns(count);
      list.begin(count, [&](std::size_t at, List::Party) {
        ++turns[at];
        return at * 3;
      });
      const auto results = list.finish();
      ASSERT_EQ(results.size(), count);
      for (std::size_t i = 0; i < count; ++i) {
        ASSERT_EQ(results[i], i * 3);
        ASSERT_EQ(turns[i], 1);
      }
    }
  }
  EXPECT_TRUE(list.finish().empty());
}

TEST(SharedListTest, TheHelperDoesItAllWhereTheCallerComesLate) {
  std::atomic<std::size_t> turns = 0;
  List list;
  list.begin(10, [&](std::size_t, List::Party who) {
    ++turns;
    return who == List::Party::kHelper ? 1 : 0;
  });
  await(turns, 10);
  EXPECT_EQ(list.finish(), std::vector<std::size_t>(10, 1));
  EXPECT_EQ(turns, 10u);
}

TEST(SharedListTest, TheCallerWaitsForTheOneThatTheHelperHasBegun) {
  std::atomic<std::size_t> turns = 0;
  std::atomic<bool> last_of_caller = false;
  List list;
  list.begin(10, [&](std::size_t at, List::Party who) {
    if (who == List::Party::kCaller) {
      if (at == 8) last_of_caller = true;
      return at;
    }
    ++turns;
    while (!last_of_caller) std::this_thread::sleep_for(1ms);
    std::this_thread::sleep_for(20ms);
    return at + 100;
  });
  await(turns, 1);
  const auto results = list.finish();
  EXPECT_EQ(results[8], 8u);
  EXPECT_EQ(results[9], 109u);
  EXPECT_EQ(turns, 1u);
}

TEST(SharedListTest, WhatTheHelperCannotDoTheCallerDoes) {
  std::atomic<std::size_t> turns = 0;
  List list;
  list.begin(10, [&](std::size_t at, List::Party who) {
    if (who == List::Party::kHelper && at == 7) {
      ++turns;
      fail("no");
    }
    return at;
  });
  await(turns, 1);
  const auto results = list.finish();
  for (std::size_t i = 0; i < 10; ++i) EXPECT_EQ(results[i], i);
}

TEST(SharedListTest, NothingIsCalledAnyMoreWhenItWasWithdrawn) {
  List list;
  std::atomic<bool> wanted = true;
  std::atomic<bool> too_late = false;
  for (int again = 0; again < 20; ++again) {
    wanted = true;
    list.begin(1000, [&](std::size_t at, List::Party) {
      std::this_thread::sleep_for(1ms);
      if (!wanted) too_late = true;
      return at;
    });
    if (again % 2 == 0) std::this_thread::sleep_for(1ms);
    list.withdraw();
    wanted = false;
    EXPECT_TRUE(list.finish().empty());
    std::this_thread::sleep_for(3ms);
    EXPECT_FALSE(too_late);
  }
}

TEST(SharedListTest, ALaterListTakesThePlaceOfAnUnfinishedOne) {
  List list;
  for (std::size_t again = 1; again <= 50; ++again) {
    list.begin(100, [again](std::size_t at, List::Party) { return at * again; });
  }
  const auto results = list.finish();
  for (std::size_t i = 0; i < 100; ++i) EXPECT_EQ(results[i], i * 50);
}

TEST(SharedListTest, NothingIsCalledAnyMoreWhenItHasThrown) {
  List list;
  for (int again = 0; again < 20; ++again) {
    std::atomic<bool> over = false;
    std::atomic<bool> too_late = false;
    list.begin(1000, [&](std::size_t at, List::Party who) {
      if (who == List::Party::kCaller) fail("no");
      std::this_thread::sleep_for(1ms);
      if (over) too_late = true;
      return at;
    });
    if (again % 2 == 0) std::this_thread::sleep_for(1ms);
    EXPECT_THROW(list.finish(), Error);
    over = true;
    std::this_thread::sleep_for(3ms);
    EXPECT_FALSE(too_late);
  }
}

}  // namespace
}  // namespace godwit
