// Post-copy between the pair of page servers, as real processes: what is missing at the switch
// follows while it is used.
#include "common/wire/fault_request.h"
#include "page-server/pair_fixture.h"

namespace godwit {
namespace {

using ::testing::HasSubstr;
using namespace testing;  // NOLINT: the fixture and what it is made of

class LazyPairTest : public PageServerTest {
 protected:
  void start_faults() {
    faults_ = connect_loopback();
    const std::string token(kPageTokenBytes, 'f');
    proto::PageOrder order;
    *order.mutable_start_faults()->mutable_tls() = authority_.issue("source", "destination");
    order.mutable_start_faults()->set_page_token(token);
    source_.link().send(order, std::array{faults_.client.get()});
    *order.mutable_start_faults()->mutable_tls() = authority_.issue("destination", "source");
    destination_.link().send(order, std::array{faults_.server.get()});
    expect_ready();
  }

  // Its thread may have asked for precedence before.
  void expect_ready() {
    proto::PageReport report = source_.link().receive(in_seconds(10));
    while (report.has_answering_thread()) report = source_.link().receive(in_seconds(10));
    ASSERT_TRUE(report.has_ready());
  }

  Round switch_lazily(std::uint32_t number, std::uint64_t generation,
                      const std::vector<PageRange>& eager = {}, bool final = true,
                      std::uint64_t written_pages = 0) {
    proto::PageOrder order;
    proto::SendRound& round = *order.mutable_send_round();
    round.set_round(number);
    round.set_space(1);
    round.set_generation(generation);
    round.set_final(final);
    round.set_lazy(true);
    round.set_eager_written_pages(written_pages);
    for (const PageRange& range : eager) {
      proto::PageSpan& span = *round.add_eager();
      span.set_start(range.start);
      span.set_end(range.end);
    }
    source_.link().send(order);
    return finish_round(number);
  }

  // As an agent does right before the process runs on.
  void serve(const std::vector<PageRange>& ranges, const proto::RoundReceived& received) {
    for (const proto::PageSpan& span : received.stale()) {
      want_.zap(*PageRange::make(span.start(), span.end()));
    }
    for (const PageRange& range : ranges) {
      ASSERT_EQ(try_userfaultfd_unregister(fill_.get(), range), 0);
    }
    UniqueFd uffd = want_.uffd(UFFD_FEATURE_EVENT_FORK | UFFD_FEATURE_EVENT_REMAP |
                               UFFD_FEATURE_EVENT_REMOVE | UFFD_FEATURE_EVENT_UNMAP);
    for (const PageRange& range : ranges) {
      userfaultfd_register(uffd.get(), range, UFFDIO_REGISTER_MODE_MISSING);
    }
    proto::PageOrder order;
    order.mutable_serve_space()->set_space(1);
    const UniqueFd ledger(::memfd_create("ledger", MFD_CLOEXEC));
    destination_.link().send(order, std::array{uffd.get(), ledger.get()});
  }

  void send_missing() {
    proto::PageOrder order;
    order.mutable_send_missing()->set_round(90);
    source_.link().send(order);
  }
  // The last news of what is missing.
  proto::MissingPages finish() {
    const std::int64_t deadline_ns = in_seconds(20);
    for (;;) {
      const proto::PageReport report = destination_.link().receive(deadline_ns);
      if (monotonic_ns() > deadline_ns) ADD_FAILURE() << report.ShortDebugString();
      if (!report.has_missing_pages()) continue;
      if (HasFailure() || report.missing_pages().missing_pages() == 0)
        return report.missing_pages();
    }
  }
  std::uint64_t hash_of_source(const PageRange& range) {
    have_.start_reading(range);
    return have_.finish_reading();
  }
  std::uint64_t hash_there(const PageRange& range) {
    want_.start_reading(range);
    return want_.finish_reading();
  }
  void map_both(const PageRange& range) {
    for (TestChild* child : {&have_, &want_}) child->map(range);
  }

  Connection faults_;
};

TEST_F(LazyPairTest, FaultsComeFirstAndTheRestFollows) {
  const PageRange memory = pages(0, 4096);
  map_both(memory);
  have_.fill(pages(0, 4000), 1);  // the rest was never touched
  have_.clear(pages(64, 8));
  start();
  start_faults();
  set_areas(1, {{memory}});
  const Round round = switch_lazily(1, 1, {pages(3000, 4)});
  EXPECT_EQ(round.sent.pages(), 4u);
  EXPECT_EQ(round.sent.missing_pages(), 3996u);
  EXPECT_EQ(round.received.missing_pages(), 3996u);
  EXPECT_EQ(round.received.stale_size(), 0);
  serve({memory}, round.received);
  for (const std::uint64_t page : {0, 66, 1999, 2001, 3000, 3999}) {
    EXPECT_EQ(hash_there(pages(page, 1)), hash_of_source(pages(page, 1))) << page;
  }
  EXPECT_EQ(hash_there(pages(4000, 96)), hash_of_source(pages(4000, 96)));
  send_missing();
  const proto::MissingPages news = finish();
  // 3000 came before; 2001 with 1999, or was on its way.
  EXPECT_GE(news.faults(), 4u);
  EXPECT_LE(news.faults(), 5u);
  EXPECT_GT(news.zero_faults(), 0u);
  EXPECT_GT(news.latency_p50_ns(), 0);
  EXPECT_GE(news.latency_max_ns(), news.latency_p99_ns());
  EXPECT_GE(news.fault_bytes(), 4 * kPageSize);
  EXPECT_GE(news.background_bytes(), 3900 * kPageSize);
  expect_equal({memory});
}

TEST_F(LazyPairTest, PagesThatWereWrittenAgainAreStale) {
  const PageRange memory = pages(0, 256);
  map_both(memory);
  have_.fill(memory, 2);
  start();
  start_faults();
  set_areas(1, {{memory}});
  send_round(1, 1, false);
  have_.fill(pages(10, 3), 3);
  have_.fill(pages(200, 1), 4);
  set_areas(2, {{memory, proto::PageArea::ANONYMOUS, false}});
  const Round round = switch_lazily(2, 2);
  EXPECT_EQ(round.sent.missing_pages(), 4u);
  ASSERT_EQ(round.received.stale_size(), 2);
  EXPECT_EQ(round.received.stale(0).start(), pages(10, 1).start);
  EXPECT_EQ(round.received.stale(0).end(), pages(13, 1).start);
  EXPECT_EQ(round.received.stale(1).start(), pages(200, 1).start);
  serve({memory}, round.received);
  EXPECT_EQ(hash_there(pages(200, 1)), hash_of_source(pages(200, 1)));
  send_missing();
  EXPECT_EQ(finish().faults(), 1u);
  expect_equal({memory});
}

// When the layout has changed by the freeze, the switch takes two rounds, and the last one counts.
TEST_F(LazyPairTest, ASecondLastRoundNamesEverythingAgain) {
  const PageRange memory = pages(0, 256);
  map_both(memory);
  have_.fill(memory, 2);
  start();
  start_faults();
  set_areas(1, {{memory}});
  send_round(1, 1, false);
  have_.fill(pages(10, 3), 3);
  set_areas(2, {{memory, proto::PageArea::ANONYMOUS, false}});
  EXPECT_EQ(switch_lazily(2, 2).received.stale_size(), 1);
  set_areas(3, {{memory, proto::PageArea::ANONYMOUS, false}});
  have_.fill(pages(200, 1), 4);
  const Round round = switch_lazily(3, 3);
  EXPECT_EQ(round.received.missing_pages(), 4u);
  ASSERT_EQ(round.received.stale_size(), 2);
  EXPECT_EQ(round.received.stale(0).start(), pages(10, 1).start);
  EXPECT_EQ(round.received.stale(1).start(), pages(200, 1).start);
  serve({memory}, round.received);
  send_missing();
  finish();
  expect_equal({memory});
}

// Before the switch, as long as there is time to drop them.
TEST_F(LazyPairTest, PagesAreNamedAhead) {
  const PageRange memory = pages(0, 256);
  map_both(memory);
  have_.fill(memory, 2);
  start();
  start_faults();
  set_areas(1, {{memory}});
  send_round(1, 1, false);
  have_.fill(pages(10, 6), 3);
  set_areas(2, {{memory, proto::PageArea::ANONYMOUS, false}});
  const Round ahead = switch_lazily(2, 2, {}, false);
  ASSERT_EQ(ahead.received.stale_size(), 1);
  EXPECT_EQ(ahead.received.stale(0).end(), pages(16, 1).start);
  want_.zap(pages(10, 6));
  have_.fill(pages(200, 1), 4);
  have_.clear(pages(15, 1));
  set_areas(3, {{memory, proto::PageArea::ANONYMOUS, false}});
  const Round round = switch_lazily(3, 3, {pages(11, 1), pages(15, 1)});
  EXPECT_EQ(round.sent.pages(), 1u);
  EXPECT_EQ(round.sent.zero_pages(), 1u);
  EXPECT_EQ(round.sent.missing_pages(), round.received.missing_pages());
  EXPECT_GE(round.received.missing_pages(), 5u);
  ASSERT_EQ(round.received.stale_size(), 1);
  EXPECT_EQ(round.received.stale(0).start(), pages(200, 1).start);
  serve({memory}, round.received);
  EXPECT_EQ(hash_there(pages(12, 1)), hash_of_source(pages(12, 1)));
  send_missing();
  finish();
  expect_equal({memory});
}

// What is written before the switch is likely to be touched after it.
TEST_F(LazyPairTest, TheWorkingSetTravelsAhead) {
  const PageRange memory = pages(0, 256);
  map_both(memory);
  have_.fill(memory, 2);
  start();
  start_faults();
  set_areas(1, {{memory}});
  const Round all = switch_lazily(1, 1, {}, false);
  EXPECT_EQ(all.sent.pages(), 0u);
  have_.fill(pages(10, 4), 3);
  have_.clear(pages(20, 1));  // and one that is zeros now
  set_areas(2, {{memory, proto::PageArea::ANONYMOUS, false}});
  const Round ahead = switch_lazily(2, 2, {}, false, 100);
  EXPECT_EQ(ahead.sent.pages() + ahead.sent.zero_pages(), 5u);
  have_.fill(pages(12, 1), 4);
  set_areas(3, {{memory, proto::PageArea::ANONYMOUS, false}});
  const Round last = switch_lazily(3, 3);
  EXPECT_EQ(last.sent.missing_pages(), 252u);
  EXPECT_EQ(last.received.missing_pages(), 252u);
  ASSERT_EQ(last.received.stale_size(), 1);
  EXPECT_EQ(last.received.stale(0).start(), pages(12, 1).start);
  serve({memory}, last.received);
  EXPECT_EQ(hash_there(pages(10, 2)), hash_of_source(pages(10, 2)));
  EXPECT_EQ(hash_there(pages(20, 1)), hash_of_source(pages(20, 1)));
  EXPECT_EQ(hash_there(pages(12, 1)), hash_of_source(pages(12, 1)));
  send_missing();
  EXPECT_EQ(finish().faults(), 1u);  // the page that was written again
  expect_equal({memory});
}

TEST_F(LazyPairTest, WhatFollowsMayOvertakeTheOrderToServe) {
  const PageRange memory = pages(0, 16384);
  map_both(memory);
  have_.fill(memory, 9);
  start();
  start_faults();
  set_areas(1, {{memory}});
  const Round round = switch_lazily(1, 1);
  send_missing();
  ::usleep(10'000);  // some of it has come, some has not
  serve({memory}, round.received);
  EXPECT_EQ(finish().missing_pages(), 0u);
  expect_equal({memory});
}

TEST_F(LazyPairTest, FaultsAllTheTimeWhileTheRestFollows) {
  const PageRange memory = pages(0, 16384);
  map_both(memory);
  have_.fill(memory, 5);
  start();
  start_faults();
  set_areas(1, {{memory}});
  const Round round = switch_lazily(1, 1);
  serve({memory}, round.received);
  send_missing();
  std::vector<PageRange> read;
  for (std::uint64_t page = 16000; page > 0; page -= 500) read.push_back(pages(page, 2));
  for (const PageRange& range : read) want_.start_reading(range);  // all at once
  for (const PageRange& range : read) EXPECT_EQ(want_.finish_reading(), hash_of_source(range));
  EXPECT_GT(finish().faults(), 0u);
  expect_equal({memory});
}

// A destination that asks for what it does not miss: another program in its place.
TEST_F(LazyPairTest, APageOutsideOfWhatIsMissingIsRefused) {
  const PageRange memory = pages(0, 16);
  map_both(memory);
  have_.fill(memory, 6);
  start();
  set_areas(1, {{memory}});
  switch_lazily(1, 1, {pages(4, 1)});
  faults_ = connect_loopback();
  proto::PageOrder order;
  *order.mutable_start_faults()->mutable_tls() = authority_.issue("source", "destination");
  order.mutable_start_faults()->set_page_token(std::string(kPageTokenBytes, 'f'));
  source_.link().send(order, std::array{faults_.client.get()});
  TlsStream stream = TlsStream::accept(std::move(faults_.server),
                                       authority_.issue("destination", "source"), in_seconds(10));
  std::array<std::byte, kPageTokenBytes> token{};
  stream.read(token, in_seconds(10));
  expect_ready();
  stream.write(encode_fault_request({1, pages(5, 1).start}));
  PageFrame frame;
  ASSERT_TRUE(receive_frame(stream, frame));  // this one is
  stream.write(encode_fault_request({1, pages(4, 1).start}));
  EXPECT_THAT(failure_of(source_),
              HasSubstr("page 550000004000 of address space 1, which it is not missing"));
}

TEST_F(LazyPairTest, ARequestThatIsNoneIsRefused) {
  start();
  faults_ = connect_loopback();
  proto::PageOrder order;
  *order.mutable_start_faults()->mutable_tls() = authority_.issue("source", "destination");
  order.mutable_start_faults()->set_page_token(std::string(kPageTokenBytes, 'f'));
  source_.link().send(order, std::array{faults_.client.get()});
  TlsStream stream = TlsStream::accept(std::move(faults_.server),
                                       authority_.issue("destination", "source"), in_seconds(10));
  std::array<std::byte, kPageTokenBytes> token{};
  stream.read(token, in_seconds(10));
  expect_ready();
  stream.write(std::array<std::byte, kFaultRequestBytes>{});
  EXPECT_THAT(failure_of(source_), HasSubstr("answering page faults"));
}

TEST_F(LazyPairTest, AFaultConnectionOfAnotherMigrationIsRefused) {
  start();
  faults_ = connect_loopback();
  proto::PageOrder order;
  *order.mutable_start_faults()->mutable_tls() = authority_.issue("source", "destination");
  order.mutable_start_faults()->set_page_token(std::string(kPageTokenBytes, 'x'));
  source_.link().send(order, std::array{faults_.client.get()});
  *order.mutable_start_faults()->mutable_tls() = authority_.issue("destination", "source");
  order.mutable_start_faults()->set_page_token(std::string(kPageTokenBytes, 'f'));
  destination_.link().send(order, std::array{faults_.server.get()});
  EXPECT_THAT(failure_of(destination_), HasSubstr("belongs to another migration"));
}

}  // namespace
}  // namespace godwit
