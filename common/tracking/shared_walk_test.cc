#include "common/tracking/shared_walk.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <map>
#include <mutex>
#include <thread>

#include "common/base/error.h"

namespace godwit {
namespace {

constexpr Address kBase = 0x7f0000001000;
constexpr PageRange kRange{kBase, kBase + (4ULL << 30)};

// One page of each piece, and its ends, so that order and completeness can be seen.
void note_ends(const PageRange& piece, std::vector<PageRange>& found) {
  found.push_back(PageRange{piece.start, piece.start + kPageSize});
  found.push_back(PageRange{piece.end - kPageSize, piece.end});
}

// Whole and in order: each piece begins where the one before ended.
void expect_whole(const std::vector<PageRange>& found, const PageRange& range) {
  ASSERT_FALSE(found.empty());
  ASSERT_EQ(found.size() % 2, 0U);
  EXPECT_EQ(found.front().start, range.start);
  EXPECT_EQ(found.back().end, range.end);
  for (std::size_t i = 2; i < found.size(); i += 2) EXPECT_EQ(found[i].start, found[i - 1].end);
}

TEST(SharedWalk, FindsAllInOrder) {
  for (const unsigned helpers : {0U, 1U, 3U}) {
    SharedWalk walk(helpers);
    for (int i = 0; i < 20; ++i) expect_whole(walk.run(kRange, note_ends), kRange);
  }
}

TEST(SharedWalk, HelpersHelp) {
  SharedWalk walk(1);
  std::mutex mutex;
  std::map<std::thread::id, int> pieces;
  const auto slowly = [&](const PageRange& piece, std::vector<PageRange>& found) {
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
    note_ends(piece, found);
    const std::scoped_lock lock(mutex);
    ++pieces[std::this_thread::get_id()];
  };
  expect_whole(walk.run(kRange, slowly), kRange);
  const std::scoped_lock lock(mutex);
  EXPECT_EQ(pieces.size(), 2U);
}

TEST(SharedWalk, NobodyWaitsForAHelper) {
  std::atomic<bool> over = false;
  const std::thread::id caller = std::this_thread::get_id();
  SharedWalk walk(2);
  const auto stuck = [&](const PageRange& piece, std::vector<PageRange>& found) {
    while (std::this_thread::get_id() != caller && !over) std::this_thread::yield();
    note_ends(piece, found);
  };
  expect_whole(walk.run(kRange, stuck), kRange);
  over = true;
}

TEST(SharedWalk, AHelperThatFailsIsNotMissed) {
  const std::thread::id caller = std::this_thread::get_id();
  SharedWalk walk(1);
  const auto fails = [&](const PageRange& piece, std::vector<PageRange>& found) {
    if (std::this_thread::get_id() != caller) fail("not here");
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
    note_ends(piece, found);
  };
  expect_whole(walk.run(kRange, fails), kRange);
  EXPECT_THROW(walk.run(kRange, [](const PageRange&, auto&) { fail("nowhere"); }), Error);
}

TEST(SharedWalk, SmallAndUneven) {
  SharedWalk walk(3);
  const PageRange page{kBase, kBase + kPageSize};
  EXPECT_EQ(walk.run(page, note_ends), (std::vector<PageRange>{page, page}));
  const PageRange huge{kBase, kBase + (64ULL << 40)};
  expect_whole(walk.run(huge, note_ends), huge);
}

}  // namespace
}  // namespace godwit
