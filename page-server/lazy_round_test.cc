#include "page-server/lazy_round.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vector>

#include "common/base/error.h"

namespace godwit {
namespace {

constexpr Address kBase = 0x550000000000;

PageRange pages(std::uint64_t first, std::uint64_t count) {
  return {kBase + first * kPageSize, kBase + (first + count) * kPageSize};
}

PageBitmap bitmap_of(const std::vector<PageRange>& ranges) {
  PageBitmap bitmap;
  for (const PageRange& range : ranges) bitmap.set(range);
  return bitmap;
}

std::vector<PageRange> runs_of(const PageBitmap& bitmap) {
  std::vector<PageRange> runs;
  bitmap.for_each_run([&](const PageRange& run) { runs.push_back(run); });
  return runs;
}

void add_eager(proto::SendRound& order, Address start, Address end) {
  proto::PageSpan& span = *order.add_eager();
  span.set_start(start);
  span.set_end(end);
}

// Keeps what the frames say.
class KeptFrames final : public FrameSink {
 public:
  std::unique_ptr<PageFrame> take_free() override { return std::make_unique<PageFrame>(); }
  void push(std::unique_ptr<PageFrame> frame) override {
    frame->verify();
    frames.push_back(std::move(frame));
  }
  std::vector<std::unique_ptr<PageFrame>> frames;
};

TEST(LazyRoundTest, AnonymousPagesMayWait) {
  PageBitmap data = bitmap_of({pages(0, 8), pages(10, 4), pages(20, 4)});
  const std::vector<TrackedArea> areas{{pages(0, 10), AreaKind::kAnonymous},
                                       {pages(10, 4), AreaKind::kSharedAnonymous},
                                       {pages(20, 4), AreaKind::kPrivateFile}};
  const LeftPages later = leave_for_later({}, areas, data);
  EXPECT_EQ(runs_of(later.missing), std::vector{pages(0, 8)});
  EXPECT_EQ(runs_of(later.written), std::vector{pages(0, 8)});
  EXPECT_EQ(runs_of(data), (std::vector{pages(10, 4), pages(20, 4)}));
}

TEST(LazyRoundTest, WhatIsWantedAtOnceTravels) {
  PageBitmap data = bitmap_of({pages(0, 8)});
  proto::SendRound order;
  add_eager(order, pages(2, 1).start, pages(3, 1).start);
  add_eager(order, pages(6, 1).start, pages(12, 1).start);
  const LeftPages later =
      leave_for_later(order, std::vector<TrackedArea>{{pages(0, 8), AreaKind::kAnonymous}}, data);
  EXPECT_EQ(runs_of(later.missing), (std::vector{pages(0, 2), pages(3, 3)}));
  EXPECT_EQ(runs_of(data), (std::vector{pages(2, 1), pages(6, 2)}));
}

TEST(LazyRoundTest, WhatWasWrittenLastGoesFirst) {
  PageBitmap data = bitmap_of({pages(10, 4), pages(30, 2)});
  const std::vector<TrackedArea> areas{{pages(0, 36), AreaKind::kAnonymous},
                                       {pages(36, 10), AreaKind::kSharedAnonymous}};
  proto::SendRound order;
  order.set_eager_written_pages(3);
  const LeftPages left = leave_for_later(order, areas, data);
  EXPECT_EQ(runs_of(data), std::vector{pages(10, 3)});
  EXPECT_EQ(runs_of(left.written), (std::vector{pages(13, 1), pages(30, 2)}));
  EXPECT_EQ(runs_of(left.missing), (std::vector{pages(13, 1), pages(30, 2)}));
}

TEST(LazyRoundTest, AreasOfFewPagesTravelWhole) {
  PageBitmap data = bitmap_of({pages(0, 5), pages(20, 2), pages(40, 3), pages(60, 1)});
  const std::vector<TrackedArea> areas{{pages(0, 20), AreaKind::kAnonymous},
                                       {pages(20, 20), AreaKind::kAnonymous},
                                       {pages(40, 20), AreaKind::kAnonymous},
                                       {pages(60, 20), AreaKind::kSharedAnonymous}};
  proto::SendRound order;
  order.set_eager_area_pages(6);  // the third one would be one too many
  const LeftPages left = leave_for_later(order, areas, data);
  EXPECT_EQ(runs_of(left.missing), (std::vector{pages(0, 5)}));
  EXPECT_EQ(runs_of(left.written), (std::vector{pages(0, 5)}));
  EXPECT_EQ(runs_of(data), (std::vector{pages(20, 2), pages(40, 3), pages(60, 1)}));
}

TEST(LazyRoundTest, ARangeThatIsNotPagesIsRefused) {
  PageBitmap data;
  proto::SendRound order;
  add_eager(order, kBase + 1, kBase + kPageSize);
  try {
    leave_for_later(order, {}, data);
    FAIL() << "taken";
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), ::testing::HasSubstr("550000000001"));
  }
}

TEST(LazyRoundTest, FramesNameAllOfIt) {
  std::vector<PageRange> ranges;
  for (std::uint64_t at = 0; at < 3000; ++at) ranges.push_back(pages(2 * at, 1));
  ranges.push_back(pages(10000, 5000));
  proto::SendRound order;
  order.set_space(3);
  order.set_round(9);
  order.set_generation(4);
  order.set_final(true);
  KeptFrames sink;
  const std::uint64_t bytes = name_missing(order, bitmap_of(ranges), sink);
  EXPECT_EQ(sink.frames.size(), 3u);
  EXPECT_EQ(bytes, 3 * PageFrame::kHeaderBytes + ranges.size() * PageFrame::kRunBytes);
  std::vector<PageRange> named;
  for (const auto& frame : sink.frames) {
    EXPECT_EQ(frame->type(), PageFrame::Type::kMissing);
    EXPECT_EQ(frame->space(), 3u);
    EXPECT_EQ(frame->round(), 9u);
    EXPECT_EQ(frame->generation(), 4u);
    frame->for_each_run([&](const PageFrame::Run& run) { named.push_back(run.range); });
  }
  EXPECT_EQ(named, ranges);
}

TEST(LazyRoundTest, ARoundBeforeTheSwitchNamesAhead) {
  proto::SendRound order;
  KeptFrames sink;
  name_missing(order, bitmap_of({pages(3, 1)}), sink);
  ASSERT_EQ(sink.frames.size(), 1u);
  EXPECT_EQ(sink.frames[0]->type(), PageFrame::Type::kMissingAhead);
}

TEST(LazyRoundTest, WhatWasNamedAheadIsMissingUnlessItTravelsOrIsGone) {
  const std::vector<TrackedArea> areas{{pages(0, 10), AreaKind::kAnonymous},
                                       {pages(10, 4), AreaKind::kPrivateFile}};
  const PageBitmap named = bitmap_of({pages(0, 4), pages(6, 2), pages(11, 2), pages(20, 2)});
  proto::SendRound order;
  add_eager(order, pages(2, 1).start, pages(2, 1).end);
  add_eager(order, pages(20, 1).start, pages(20, 1).end);
  add_eager(order, pages(6, 1).start, pages(6, 1).end);
  const auto readable = [](Address page) { return page != pages(6, 1).start; };
  PageBitmap data = bitmap_of({pages(7, 1), pages(9, 1)});
  LeftPages left;
  left.missing.set(pages(5, 1));
  leave_named(order, areas, named, readable, data, left);
  EXPECT_EQ(runs_of(left.missing), (std::vector{pages(0, 2), pages(3, 1), pages(5, 2)}));
  EXPECT_EQ(runs_of(data), (std::vector{pages(2, 1), pages(7, 1), pages(9, 1)}));
}

TEST(LazyRoundTest, NothingMissingIsNoFrame) {
  KeptFrames sink;
  EXPECT_EQ(name_missing({}, PageBitmap{}, sink), 0u);
  EXPECT_TRUE(sink.frames.empty());
}

}  // namespace
}  // namespace godwit
