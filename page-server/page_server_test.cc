// The pair of page servers, as real processes, between the memories of two other processes.
#include "page-server/pair_fixture.h"

namespace godwit {
namespace {

using ::testing::HasSubstr;
using namespace testing;  // NOLINT: the fixture and what it is made of

class PageServerThreadsTest : public PageServerTest,
                              public ::testing::WithParamInterface<std::uint32_t> {
 protected:
  PageServerThreadsTest() { threads_ = GetParam(); }
};

INSTANTIATE_TEST_SUITE_P(Threads, PageServerThreadsTest, ::testing::Values(1, 2));

TEST_P(PageServerThreadsTest, MovesMemoryThatIsWrittenMeanwhile) {
  const PageRange memory = pages(0, 16384);
  const PageRange stack = pages(20000, 16);
  for (TestChild* child : {&have_, &want_}) {
    child->map(memory);
    child->map(stack);
  }
  have_.fill(memory, 1);
  have_.fill(stack, 2);
  have_.clear(pages(100, 50));
  start();
  have_.start_writing(memory, 0);
  set_areas(1, {{memory}, {stack}});
  const Round first = send_round(1, 1, false);
  EXPECT_GE(first.sent.pages(), 16384u + 16 - 50);
  std::vector<Area> areas{{memory, proto::PageArea::ANONYMOUS, false},
                          {stack, proto::PageArea::ANONYMOUS, false}};
  for (std::uint32_t number = 2; number < 5; ++number) {
    set_areas(number, areas);
    const Round round = send_round(number, number, false);
    EXPECT_GT(round.sent.pages(), 0u);
    EXPECT_EQ(round.scanned.untracked_size(), 0);
  }
  EXPECT_GT(have_.stop_writing(), 0u);
  set_areas(5, areas);
  send_round(5, 5, true);
  expect_equal({memory, stack});
}

TEST_F(PageServerTest, PagesGivenBackBecomeZero) {
  const PageRange memory = pages(0, 2048);
  for (TestChild* child : {&have_, &want_}) child->map(memory);
  have_.fill(memory, 3);
  start();
  set_areas(1, {{memory}});
  send_round(1, 1, false);
  have_.zap(pages(5, 3));
  have_.zap(pages(512, 600));
  have_.clear(pages(20, 4));
  set_areas(2, {{memory, proto::PageArea::ANONYMOUS, false}});
  const Round second = send_round(2, 2, false);
  EXPECT_EQ(second.sent.zero_pages(), 607u);
  EXPECT_EQ(second.received.zero_pages(), 607u);
  have_.fill(pages(513, 2), 4);  // comes back, and back again after zeros
  have_.zap(pages(700, 1));
  have_.zap(pages(1500, 1));
  set_areas(3, {{memory, proto::PageArea::ANONYMOUS, false}});
  const Round third = send_round(3, 3, true);
  EXPECT_EQ(third.sent.pages(), 2u);
  EXPECT_EQ(third.received.zero_pages(), 1u);  // page 700 was told before
  expect_equal({memory});
}

TEST_F(PageServerTest, FinalRoundOfFewPages) {
  const PageRange memory = pages(0, 8192);
  for (TestChild* child : {&have_, &want_}) child->map(memory);
  have_.fill(memory, 5);
  start();
  set_areas(1, {{memory}});
  send_round(1, 1, false);
  for (std::uint64_t page = 0; page < 8000; page += 400) have_.fill(pages(page, 1), page + 77);
  set_areas(2, {{memory, proto::PageArea::ANONYMOUS, false}});
  const Round last = send_round(2, 2, true);
  EXPECT_EQ(last.sent.pages(), 20u);
  expect_equal({memory});
}

TEST_F(PageServerTest, AreasComeGoAndMove) {
  const PageRange first = pages(0, 64);
  const PageRange second = pages(1000, 64);
  const PageRange third = pages(2000, 64);
  for (TestChild* child : {&have_, &want_}) {
    child->map(first);
    child->map(second);
  }
  have_.fill(first, 6);
  have_.fill(second, 7);
  start();
  set_areas(1, {{first}, {second}});
  send_round(1, 1, false);
  // What was at `second` goes to `third`; something new, and mostly empty, takes its place.
  have_.move(second, third.start);
  have_.map(second);
  have_.fill(pages(1010, 2), 8);
  want_.unmap(second);
  want_.map(second);
  want_.map(third);
  set_areas(2, {{first, proto::PageArea::ANONYMOUS, false}, {second}, {third}});
  const Round round = send_round(2, 2, false);
  EXPECT_EQ(round.sent.pages(), 66u);
  EXPECT_EQ(round.scanned.untracked_size(), 0);
  // A mapping in an old place that nobody noticed is reported, sent, and what it hides is zero.
  have_.unmap(first);
  have_.map(first);
  have_.fill(pages(3, 1), 9);
  set_areas(3, {{first, proto::PageArea::ANONYMOUS, false},
                {second, proto::PageArea::ANONYMOUS, false},
                {third, proto::PageArea::ANONYMOUS, false}});
  const Round noticed = send_round(3, 3, false);
  ASSERT_EQ(noticed.scanned.untracked_size(), 1);
  EXPECT_EQ(noticed.scanned.untracked(0).start(), first.start);
  EXPECT_EQ(noticed.scanned.untracked(0).end(), first.end);
  EXPECT_EQ(noticed.sent.pages(), 1u);
  EXPECT_EQ(noticed.sent.zero_pages(), 63u);
  set_areas(4, {{first, proto::PageArea::ANONYMOUS, false},
                {second, proto::PageArea::ANONYMOUS, false},
                {third, proto::PageArea::ANONYMOUS, false}});
  send_round(4, 4, true);
  expect_equal({first, second, third});
}

TEST_F(PageServerTest, AreasMayAdjoin) {
  const PageRange left = pages(0, 50);
  const PageRange right = pages(50, 50);
  for (TestChild* child : {&have_, &want_}) {
    child->map(left);
    child->map_shared(right);
  }
  have_.fill(pages(0, 100), 22);
  start();
  set_areas(1, {{left}, {right, proto::PageArea::SHARED_ANONYMOUS}});
  EXPECT_EQ(send_round(1, 1, false).sent.pages(), 100u);
  have_.clear(pages(40, 20));
  set_areas(2, {{left, proto::PageArea::ANONYMOUS, false},
                {right, proto::PageArea::SHARED_ANONYMOUS, false}});
  EXPECT_EQ(send_round(2, 2, true).received.zero_pages(), 20u);
  expect_equal({left, right});
}

TEST_F(PageServerTest, SharedMemoryKeepsWhatNoPageTableShows) {
  const PageRange memory = pages(0, 128);
  for (TestChild* child : {&have_, &want_}) child->map_shared(memory);
  have_.fill(memory, 10);
  have_.zap(pages(0, 32));  // still in the page cache
  start();
  set_areas(1, {{memory, proto::PageArea::SHARED_ANONYMOUS}});
  const Round round = send_round(1, 1, false, {pages(0, 32)});
  EXPECT_EQ(round.sent.pages(), 128u);
  have_.zap(pages(40, 8));
  have_.fill(pages(60, 1), 11);
  have_.zap(pages(60, 1));  // written, and out of sight
  set_areas(2, {{memory, proto::PageArea::SHARED_ANONYMOUS, false}});
  send_round(2, 2, true);
  expect_equal({memory});
}

class PageServerFileTest : public PageServerTest {
 protected:
  static UniqueFd make_file() {
    UniqueFd file(memfd_create("godwit-test", MFD_CLOEXEC));
    std::vector<std::byte> content(256 * kPageSize, std::byte{0x5a});
    if (write(file.get(), content.data(), content.size()) < 0) throw_system("write");
    return file;
  }
};

TEST_F(PageServerFileTest, OnlyCopiesOfFilePagesTravel) {
  const UniqueFd file = make_file();
  TestChild have(file.get());
  TestChild want(file.get());
  const PageRange memory = pages(0, 256);
  for (TestChild* child : {&have, &want}) child->map_file(memory);
  have.read(memory);  // populates pages of the file
  have.fill(pages(10, 4), 12);
  have.clear(pages(20, 1));
  connection_ = connect_loopback();
  start_source(connection_.client.get(), std::string(kPageTokenBytes, 't'), 0);
  start_destination(connection_.server.get(), std::string(kPageTokenBytes, 't'));
  ASSERT_TRUE(source_.link().receive(in_seconds(10)).has_ready());
  ASSERT_TRUE(destination_.link().receive(in_seconds(10)).has_ready());
  track_ = have.uffd(kUffdWriteProtectAsync | kUffdWriteProtectUnpopulated);
  fill_ = want.uffd(0);
  proto::PageOrder order;
  order.mutable_add_space()->set_space(1);
  source_.link().send(order, std::array{have.memory_fd(), have.pagemap_fd()});
  destination_.link().send(order, std::array{want.memory_fd(), fill_.get()});
  set_areas(1, {{memory, proto::PageArea::PRIVATE_FILE}});
  const Round first = send_round(1, 1, false);
  EXPECT_EQ(first.sent.pages(), 5u);
  EXPECT_EQ(first.sent.zero_pages(), 0u);
  have.zap(pages(11, 1));  // the file shows through again
  have.fill(pages(100, 1), 13);
  set_areas(2, {{memory, proto::PageArea::PRIVATE_FILE, false}});
  const Round last = send_round(2, 2, true);
  EXPECT_EQ(last.sent.pages(), 2u);
  EXPECT_TRUE(have.read(memory) == want.read(memory));
}

TEST_P(PageServerThreadsTest, SlowLinkDoesNotGrowMemory) {
  const PageRange memory = pages(0, 16384);
  for (TestChild* child : {&have_, &want_}) child->map(memory);
  have_.fill(memory, 14);
  start(64 * kMiB);
  set_areas(1, {{memory}});
  const std::uint64_t source_before_kib = status_kib(source_.pid(), "VmRSS");
  const std::uint64_t destination_before_kib = status_kib(destination_.pid(), "VmRSS");
  const std::int64_t start_ns = monotonic_ns();
  order_round(1, 1, false);
  std::uint64_t source_kib = 0;
  std::uint64_t destination_kib = 0;
  while (!destination_.link().try_receive(monotonic_ns() + 20'000'000)) {
    source_kib = std::max(source_kib, status_kib(source_.pid(), "VmRSS"));
    destination_kib = std::max(destination_kib, status_kib(destination_.pid(), "VmRSS"));
    ASSERT_LT(monotonic_ns() - start_ns, 30'000'000'000);
  }
  const double seconds = static_cast<double>(monotonic_ns() - start_ns) / 1e9;
  EXPECT_GT(seconds, 0.8);  // 64 MiB at 64 MiB/s, less the burst
  // A few frames wait, not what there is to send; a sanitizer's own memory comes on top.
  EXPECT_LT(source_kib, source_before_kib + (32u << 10));
  EXPECT_LT(destination_kib, destination_before_kib + (32u << 10));
  // Its agent hears all the while how far it is.
  ASSERT_EQ(source_.link().receive(in_seconds(1)).scanned().pages(), 16384U);
  std::uint64_t told_pages = 0;
  int told = 0;
  for (auto report = source_.link().receive(in_seconds(1)); report.has_round_progress(); ++told) {
    EXPECT_GT(report.round_progress().pages(), told_pages);
    told_pages = report.round_progress().pages();
    report = source_.link().receive(in_seconds(1));
  }
  EXPECT_GE(told, 2);
  EXPECT_LE(told_pages, 16384U);
  std::printf("resident: source %lu KiB after %lu, destination %lu KiB after %lu\n", source_kib,
              source_before_kib, destination_kib, destination_before_kib);
}

TEST_P(PageServerThreadsTest, FramesWaitForTheirGeneration) {
  const PageRange memory = pages(0, 8192);
  for (TestChild* child : {&have_, &want_}) child->map(memory);
  have_.fill(memory, 15);
  start();
  userfaultfd_register(fill_.get(), memory, UFFDIO_REGISTER_MODE_MISSING);
  arm_write_protect(track_.get(), std::array{memory});
  tell_areas(source_, 7, {{memory}});
  order_round(1, 7, false);
  EXPECT_FALSE(destination_.link().try_receive(monotonic_ns() + 200'000'000));
  tell_areas(destination_, 7, {{memory}});
  finish_round(1);
  send_round(2, 7, true);
  expect_equal({memory});
}

TEST_P(PageServerThreadsTest, PagesOutsideOfAllAreasAreAnError) {
  const PageRange memory = pages(0, 64);
  for (TestChild* child : {&have_, &want_}) child->map(memory);
  have_.fill(memory, 16);
  start();
  userfaultfd_register(fill_.get(), memory, UFFDIO_REGISTER_MODE_MISSING);
  tell_areas(source_, 1, {{memory}});
  tell_areas(destination_, 1, {{pages(0, 32)}});
  order_round(1, 1, false);
  EXPECT_THAT(failure_of(destination_), HasSubstr("came for no area of generation 1"));
  EXPECT_EQ(destination_.quit(in_seconds(5)), 1);
}

TEST_F(PageServerTest, AnotherTokenIsRefused) {
  connection_ = connect_loopback();
  start_source(connection_.client.get(), std::string(kPageTokenBytes, 'a'), 0);
  start_destination(connection_.server.get(), std::string(kPageTokenBytes, 'b'));
  EXPECT_THAT(failure_of(destination_), HasSubstr("token is a different one"));
}

TEST_F(PageServerTest, AnExitOfTheTaskIsTold) {
  const PageRange memory = pages(0, 64);
  for (TestChild* child : {&have_, &want_}) child->map(memory);
  have_.fill(memory, 17);
  start();
  set_areas(1, {{memory}});
  send_round(1, 1, false);
  have_.end();
  order_round(2, 1, false);
  EXPECT_THAT(failure_of(source_), HasSubstr("is gone (exec or exit)"));
}

TEST_P(PageServerThreadsTest, AKilledSourceIsTold) {
  const PageRange memory = pages(0, 64);
  for (TestChild* child : {&have_, &want_}) child->map(memory);
  start();
  connection_.client.reset();
  kill(source_.pid(), SIGKILL);
  EXPECT_THAT(failure_of(destination_), HasSubstr("without a word"));
}

TEST_F(PageServerTest, OrdersOfManyAreas) {
  const PageRange memory = pages(0, 64);
  for (TestChild* child : {&have_, &want_}) child->map(memory);
  have_.fill(memory, 18);
  start();
  std::vector<Area> areas{{memory}};
  userfaultfd_register(fill_.get(), memory, UFFDIO_REGISTER_MODE_MISSING);
  arm_write_protect(track_.get(), std::array{memory});
  for (std::uint64_t i = 0; i < 30000; ++i) areas.push_back({pages(1000 + 2 * i, 1)});
  tell_areas(source_, 1, areas);
  tell_areas(destination_, 1, areas);
  const Round round = send_round(1, 1, false);
  EXPECT_EQ(round.sent.pages(), 64u);
  for (Area& area : areas) area.fresh = false;
  tell_areas(source_, 2, areas);
  tell_areas(destination_, 2, areas);
  const Round last = send_round(2, 2, true);
  std::printf("final scan of 30,001 areas: %.2f ms\n", to_ms(last.scanned.scan_ns()));
}

TEST_F(PageServerTest, HoldsNoPrivileges) {
  start();
  for (const pid_t pid : {source_.pid(), destination_.pid()}) {
    const std::string status = read_file("/proc/" + std::to_string(pid) + "/status");
    for (const char* set : {"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"}) {
      EXPECT_THAT(status, HasSubstr(std::string(set) + ":\t0000000000000000"));
    }
    EXPECT_THAT(status, HasSubstr("Seccomp:\t2"));
    EXPECT_THAT(status, HasSubstr("NoNewPrivs:\t1"));
    EXPECT_EQ(status.find("Uid:\t0"), std::string::npos);
    EXPECT_EQ(status.find("Gid:\t0"), std::string::npos);
    EXPECT_THAT(status, HasSubstr("Groups:\t \n"));
  }
}

TEST_F(PageServerTest, HoldsNoOtherDescriptors) {
  const UniqueFd stray(fcntl(1, F_DUPFD, 50));  // inherited, not closed on exec
  const PageServerProcess server = PageServerProcess::spawn("destination");
  start();
  const auto count = [](pid_t pid) {
    const std::string folder = "/proc/" + std::to_string(pid) + "/fd";
    return std::distance(std::filesystem::directory_iterator(folder),
                         std::filesystem::directory_iterator());
  };
  set_areas(1, {});
  send_round(1, 1, false);                      // until the descriptors have been taken
  EXPECT_EQ(count(source_.pid()), 4 + 3);       // socket, memory, pagemap
  EXPECT_EQ(count(destination_.pid()), 4 + 3);  // socket, memory, userfaultfd
}

TEST_F(PageServerTest, WhateverHappensBetweenRounds) {
  const PageRange memory = pages(0, 3000);
  const PageRange huge = pages(4096, 2048);
  const PageRange shared = pages(10000, 1000);
  for (TestChild* child : {&have_, &want_}) {
    child->map(memory);
    child->map(huge);
    child->map_shared(shared);
  }
  have_.use_huge_pages(huge);
  start();
  std::vector<Area> areas{{memory}, {huge}, {shared, proto::PageArea::SHARED_ANONYMOUS}};
  std::mt19937_64 random(20);
  const auto step = [&](std::uint64_t seed) {
    const PageRange& area = areas[random() % areas.size()].range;
    const std::uint64_t first = random() % area.pages();
    const std::uint64_t count = 1 + random() % std::min<std::uint64_t>(600, area.pages() - first);
    const PageRange range{area.start + first * kPageSize,
                          area.start + (first + (random() % 3 == 0 ? count : 1)) * kPageSize};
    switch (random() % 4) {
      case 0:
        have_.zap(range);
        break;
      case 1:
        have_.clear(range);
        break;
      default:
        have_.fill(range, seed);
    }
  };
  for (std::uint32_t number = 1; number <= 12; ++number) {
    for (std::uint64_t i = 0; i < 40; ++i) step(number * 100 + i);
    set_areas(number, areas);
    // What is in the page cache only is the agent's to name.
    send_round(number, number, number == 12, {}, {shared});
    for (Area& area : areas) area.fresh = false;
  }
  expect_equal({memory, huge, shared});
}

// What this kernel's soft-dirty bits say does not count: everything is fresh in every round.
TEST_F(PageServerTest, SoftDirtyTakesItsDescriptors) {
  const PageRange memory = pages(0, 256);
  for (TestChild* child : {&have_, &want_}) child->map(memory);
  have_.fill(memory, 20);
  tracker_ = "soft-dirty";
  start();
  set_areas(1, {{memory}});
  EXPECT_EQ(send_round(1, 1, false).sent.pages(), 256u);
  have_.fill(pages(7, 3), 21);
  tell_areas(source_, 2, {{memory}});
  tell_areas(destination_, 2, {{memory, proto::PageArea::ANONYMOUS, false}});
  EXPECT_EQ(send_round(2, 2, true).sent.pages(), 256u);
  expect_equal({memory});
}

}  // namespace
}  // namespace godwit
