#include "common/wire/page_frame.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <sys/socket.h>
#include <algorithm>
#include <array>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "common/base/clock.h"
#include "common/wire/test_certificates.h"

namespace godwit {
namespace {

using ::testing::HasSubstr;

constexpr Address kBase = 0x7000'0000'0000;

Address at(std::uint64_t page) { return kBase + page * kPageSize; }

void fill_sample(PageFrame& frame) {
  frame.begin(PageFrame::Type::kPages, 3, 9, 12);
  std::span<std::byte> room = frame.data_room();
  std::fill_n(room.begin(), 2 * kPageSize, std::byte{0xab});
  frame.add_data(at(10), 1);
  frame.add_data(at(11), 1);  // joins the run before it
  frame.add_zero(at(12), 1000);
  std::fill_n(frame.data_room().begin(), kPageSize, std::byte{0xcd});
  frame.add_data(at(5000), 1);
  frame.seal();
}

std::vector<std::byte> bytes_of(const PageFrame& frame) {
  std::vector<std::byte> bytes(frame.head().begin(), frame.head().end());
  bytes.insert(bytes.end(), frame.data().begin(), frame.data().end());
  return bytes;
}

// What a receiver does with these bytes; false when they end too early.
bool take(std::span<const std::byte> bytes, PageFrame& frame) {
  const auto part = [&](std::span<std::byte> to) {
    if (bytes.size() < to.size()) return false;
    std::copy_n(bytes.begin(), to.size(), to.begin());
    bytes = bytes.subspan(to.size());
    return true;
  };
  if (!part(frame.header_bytes())) return false;
  frame.take_header();
  if (!part(frame.run_bytes()) || !part(frame.data_bytes())) return false;
  frame.verify();
  return true;
}

TEST(PageFrame, CarriesRunsAndData) {
  PageFrame sent;
  fill_sample(sent);
  const std::vector<std::byte> bytes = bytes_of(sent);
  EXPECT_EQ(bytes.size(), sent.wire_bytes());
  EXPECT_EQ(bytes.size(), 40 + 3 * 16 + 3 * kPageSize);
  PageFrame received;
  ASSERT_TRUE(take(bytes, received));
  EXPECT_EQ(received.type(), PageFrame::Type::kPages);
  EXPECT_EQ(received.space(), 3u);
  EXPECT_EQ(received.round(), 9u);
  EXPECT_EQ(received.generation(), 12u);
  EXPECT_EQ(received.data_pages(), 3u);
  std::vector<PageFrame::Run> runs;
  received.for_each_run([&](const PageFrame::Run& run) { runs.push_back(run); });
  ASSERT_EQ(runs.size(), 3u);
  EXPECT_EQ(runs[0].range, (PageRange{at(10), at(12)}));
  EXPECT_EQ(runs[0].data[kPageSize], std::byte{0xab});
  EXPECT_TRUE(runs[1].zero);
  EXPECT_EQ(runs[1].range, (PageRange{at(12), at(1012)}));
  EXPECT_EQ(runs[1].data, nullptr);
  EXPECT_EQ(runs[2].data[0], std::byte{0xcd});
}

TEST(PageFrame, KnowsWhenItIsFull) {
  PageFrame frame;
  frame.begin(PageFrame::Type::kPages, 0, 0, 0);
  for (std::size_t i = 0; i < PageFrame::kRunsMax; ++i) frame.add_zero(at(2 * i), 1);
  EXPECT_FALSE(frame.has_room());
  EXPECT_THROW(frame.add_zero(at(5000), 1), Error);
  frame.begin(PageFrame::Type::kPages, 0, 0, 0);
  frame.add_data(at(0), PageFrame::kDataPagesMax);
  EXPECT_FALSE(frame.has_room());
  EXPECT_THROW(frame.add_data(at(1000), 1), Error);
}

TEST(PageFrame, EveryTruncationIsSeen) {
  PageFrame sent;
  fill_sample(sent);
  const std::vector<std::byte> bytes = bytes_of(sent);
  PageFrame received;
  for (std::size_t length = 0; length < bytes.size(); ++length) {
    EXPECT_FALSE(take(std::span(bytes).first(length), received)) << length;
  }
}

TEST(PageFrame, EveryFlippedBitIsSeen) {
  PageFrame sent;
  fill_sample(sent);
  std::vector<std::byte> bytes = bytes_of(sent);
  PageFrame received;
  // Every bit of head and runs, and a sample of the data's.
  const std::size_t head_bits = sent.head().size() * 8;
  for (std::size_t bit = 0; bit < bytes.size() * 8; bit += bit < head_bits ? 1 : 997) {
    const auto flip = static_cast<std::byte>(1 << bit % 8);
    bytes[bit / 8] ^= flip;
    bool accepted = false;
    try {
      accepted = take(bytes, received);
    } catch (const Error&) {
    }
    EXPECT_FALSE(accepted) << "bit " << bit;
    bytes[bit / 8] ^= flip;
  }
  EXPECT_TRUE(take(bytes, received));
}

// A frame whose checksum is right and whose content is not: as a hostile peer could make it.
std::string story_of_run(Address start, std::uint64_t pages, std::uint64_t data_pages) {
  PageFrame frame;
  frame.begin(PageFrame::Type::kPages, 0, 0, 0);
  if (data_pages > 0) frame.add_data(start, data_pages);
  if (pages > 0) frame.add_zero(start, pages);
  frame.seal();
  PageFrame received;
  try {
    take(bytes_of(frame), received);
    return {};
  } catch (const Error& error) {
    return error.what();
  }
}

TEST(PageFrame, ImpossibleRunsAreRefused) {
  EXPECT_EQ(story_of_run(at(0), 5, 0), "");
  EXPECT_THAT(story_of_run(at(0) + 2, 5, 0), HasSubstr("malformed run"));
  EXPECT_THAT(story_of_run(at(0), 1ULL << 62, 0), HasSubstr("malformed run"));
  EXPECT_THAT(story_of_run(~0ULL << 12, 2, 0), HasSubstr("malformed run"));
}

TEST(PageFrame, HeadersThatCannotBe) {
  PageFrame frame;
  const auto story = [&](std::size_t offset, std::uint32_t value) -> std::string {
    fill_sample(frame);
    std::memcpy(frame.header_bytes().data() + offset, &value, sizeof(value));
    try {
      frame.take_header();
      return {};
    } catch (const Error& error) {
      return error.what();
    }
  };
  EXPECT_EQ(story(8, 4), "");
  EXPECT_THAT(story(0, 4), HasSubstr("not a frame"));
  EXPECT_THAT(story(4, 0x10002), HasSubstr("version 2"));
  EXPECT_THAT(story(4, 0x70001), HasSubstr("unknown type 7"));
  EXPECT_THAT(story(4, 0x20001), HasSubstr("the end of a round carries pages"));
  EXPECT_THAT(story(24, 1025), HasSubstr("too many"));
  EXPECT_THAT(story(28, 0xffffffff), HasSubstr("too many"));
}

TEST(PageFrame, TravelsThroughTlsAndEndsInOrder) {
  const testing::TestAuthority authority;
  std::array<int, 2> ends{};
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()), 0);
  const std::int64_t deadline_ns = monotonic_ns() + 10'000'000'000;
  std::thread sender([&] {
    TlsStream stream = TlsStream::connect(UniqueFd(ends[0]),
                                          authority.issue("source", "destination"), deadline_ns);
    PageFrame frame;
    fill_sample(frame);
    send_frame(stream, frame);
    frame.begin(PageFrame::Type::kEndOfRound, 3, 9, 12);
    frame.seal();
    send_frame(stream, frame);
    stream.close();
  });
  TlsStream stream =
      TlsStream::accept(UniqueFd(ends[1]), authority.issue("destination", "source"), deadline_ns);
  PageFrame frame;
  ASSERT_TRUE(receive_frame(stream, frame));
  frame.verify();
  EXPECT_EQ(frame.data_pages(), 3u);
  ASSERT_TRUE(receive_frame(stream, frame));
  frame.verify();
  EXPECT_EQ(frame.type(), PageFrame::Type::kEndOfRound);
  EXPECT_FALSE(receive_frame(stream, frame));
  sender.join();
}

}  // namespace
}  // namespace godwit
