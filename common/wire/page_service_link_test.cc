#include "common/wire/page_service_link.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <array>
#include <thread>

#include "common/base/clock.h"

namespace godwit {
namespace {

using ::testing::HasSubstr;

class PageServiceLinkTest : public ::testing::Test {
 protected:
  PageServiceLinkTest() : PageServiceLinkTest(PageServiceLink::make_sockets()) {}
  explicit PageServiceLinkTest(std::pair<UniqueFd, UniqueFd> ends)
      : agent_(std::make_unique<PageServiceLink>(std::move(ends.first))),
        server_(std::make_unique<PageServiceLink>(std::move(ends.second))) {}

  std::unique_ptr<PageServiceLink> agent_;
  std::unique_ptr<PageServiceLink> server_;
};

TEST_F(PageServiceLinkTest, DescriptorsComeWithTheirOrder) {
  const UniqueFd first = open_file("/dev/null", O_RDONLY);
  const UniqueFd second = open_file("/dev/zero", O_RDONLY);
  proto::PageOrder order;
  order.mutable_quit();
  agent_->send(order);
  order.mutable_add_space()->set_space(4);
  agent_->send(order, std::array{first.get(), second.get()});
  order.mutable_quit();
  agent_->send(order);
  EXPECT_TRUE(server_->receive_order()->fds.empty());
  const auto received = server_->receive_order();
  EXPECT_EQ(received->order.add_space().space(), 4u);
  ASSERT_EQ(received->fds.size(), 2u);
  struct stat wanted {};
  struct stat found {};
  ASSERT_EQ(fstat(second.get(), &wanted), 0);
  ASSERT_EQ(fstat(received->fds[1].get(), &found), 0);
  EXPECT_EQ(wanted.st_rdev, found.st_rdev);
  EXPECT_TRUE(server_->receive_order()->fds.empty());
}

TEST_F(PageServiceLinkTest, ManyAreasFitWithoutAReader) {
  proto::PageOrder order;
  for (std::uint64_t i = 0; i < 30000; ++i) {
    proto::PageArea& area = *order.mutable_set_areas()->add_areas();
    area.set_start(0x7fff00000000 + i * 8192);
    area.set_end(0x7fff00001000 + i * 8192);
    area.set_fresh(true);
  }
  agent_->send(order, {}, monotonic_ns() + 2'000'000'000);
  EXPECT_EQ(server_->receive_order()->order.set_areas().areas_size(), 30000);
}

TEST_F(PageServiceLinkTest, ReportsFailuresAndTimeouts) {
  EXPECT_FALSE(agent_->try_receive(monotonic_ns() + 10'000'000));
  try {
    agent_->receive(monotonic_ns() + 10'000'000);
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ETIMEDOUT);
  }
  proto::PageReport report;
  report.mutable_round_sent()->set_round(3);
  server_->send(report);
  EXPECT_EQ(agent_->receive(monotonic_ns() + 1'000'000'000).round_sent().round(), 3u);
  report.mutable_failed()->set_story("the disk is on fire");
  server_->send(report);
  try {
    agent_->receive(monotonic_ns() + 1'000'000'000);
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("the disk is on fire"));
  }
}

TEST_F(PageServiceLinkTest, AVanishedPeerIsTold) {
  server_.reset();
  try {
    agent_->receive(monotonic_ns() + 1'000'000'000);
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ECONNRESET);
  }
  EXPECT_THROW(agent_->send(proto::PageOrder()), Error);  // and no SIGPIPE
}

TEST_F(PageServiceLinkTest, AnOrderThatComesTooLateTellsWhy) {
  proto::PageReport report;
  report.mutable_ready();
  server_->send(report);
  report.mutable_failed()->set_story("the certificate has expired");
  server_->send(report);
  server_.reset();
  try {
    agent_->send(proto::PageOrder());
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("the certificate has expired"));
  }
}

TEST_F(PageServiceLinkTest, TheEndOfTheAgentIsTheEndOfOrders) {
  agent_.reset();
  EXPECT_FALSE(server_->receive_order());
}

}  // namespace
}  // namespace godwit
