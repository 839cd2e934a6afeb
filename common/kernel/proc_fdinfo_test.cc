#include "common/kernel/proc_fdinfo.h"

#include <gtest/gtest.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <sys/timerfd.h>

#include <algorithm>

#include "common/kernel/kcmp.h"

namespace godwit {
namespace {

TEST(ParseFdInfo, ReadsWhatEveryDescriptorHas) {
  const FdInfo info = parse_fdinfo("pos:\t-1\nflags:\t02100002\nmnt_id:\t17\nino:\t1039\n");
  EXPECT_EQ(info.offset, -1);
  EXPECT_EQ(info.flags, 02100002U);
  EXPECT_EQ(info.inode, 1039U);
  EXPECT_FALSE(info.eventfd_count.has_value());
  EXPECT_FALSE(info.timer.has_value());
}

TEST(ParseFdInfo, CountsAreHexadecimal) {
  const FdInfo info =
      parse_fdinfo("eventfd-count:               1f\neventfd-id: 1\neventfd-semaphore: 1\n");
  EXPECT_EQ(info.eventfd_count, 31U);
  EXPECT_EQ(info.eventfd_semaphore, true);
}

TEST(ParseFdInfo, EpollTargets) {
  const FdInfo info = parse_fdinfo(
      "tfd:        3 events: 80000019 data:                3  pos:0 ino:40f sdev:10\n"
      "tfd:       12 events:       19 data: ffffffffffffffff  pos:9 ino:1 sdev:800001\n");
  ASSERT_EQ(info.epoll.size(), 2U);
  EXPECT_EQ(info.epoll[0].fd, 3);
  EXPECT_EQ(info.epoll[0].events, 0x80000019U);
  EXPECT_EQ(info.epoll[0].inode, 0x40fU);
  EXPECT_EQ(info.epoll[1].data, ~0ULL);
  EXPECT_EQ(info.epoll[1].device, 0x801U);  // major 8, minor 1
}

TEST(ParseFdInfo, Timers) {
  const FdInfo info = parse_fdinfo(
      "clockid: 7\nticks: 3\nsettime flags: 03\nit_value: (2, 5)\nit_interval: (0, 1000)\n");
  ASSERT_TRUE(info.timer.has_value());
  EXPECT_EQ(info.timer->clock, 7);
  EXPECT_EQ(info.timer->ticks, 3U);
  EXPECT_EQ(info.timer->set_flags, 3);
  EXPECT_EQ(info.timer->value_ns, 2'000'000'005);
  EXPECT_EQ(info.timer->interval_ns, 1000);
}

TEST(ParseFdInfo, RefusesNonsense) {
  EXPECT_THROW(parse_fdinfo("flags:\tx\n"), Error);
  EXPECT_THROW(parse_fdinfo("it_value: nothing\n"), Error);
}

TEST(ProcFdDirectory, SeesItself) {
  UniqueFd event(eventfd(5, EFD_SEMAPHORE | EFD_CLOEXEC));
  UniqueFd epoll(epoll_create1(0));
  epoll_event wanted{};
  wanted.events = EPOLLIN;
  wanted.data.u64 = 77;
  ASSERT_EQ(epoll_ctl(epoll.get(), EPOLL_CTL_ADD, event.get(), &wanted), 0);

  const ProcFdDirectory directory(getpid());
  const auto fds = directory.list();
  EXPECT_TRUE(std::is_sorted(fds.begin(), fds.end()));
  EXPECT_NE(std::find(fds.begin(), fds.end(), event.get()), fds.end());
  if (const auto count = directory.count()) {
    EXPECT_EQ(*count + 1, fds.size());  // list() opened one more
  }
  EXPECT_EQ(directory.link(event.get()), "anon_inode:[eventfd]");
  EXPECT_EQ(directory.info(event.get())->eventfd_count, 5U);
  EXPECT_TRUE(directory.info(event.get())->flags & O_CLOEXEC);
  const auto info = directory.info(epoll.get());
  ASSERT_EQ(info->epoll.size(), 1U);
  EXPECT_EQ(info->epoll[0].data, 77U);
  struct stat status {};
  ASSERT_EQ(fstat(event.get(), &status), 0);
  EXPECT_EQ(info->epoll[0].inode, status.st_ino);
  EXPECT_EQ(info->epoll[0].device, status.st_dev);
  const int closed = event.release();
  close(closed);
  EXPECT_FALSE(directory.link(closed).has_value());
  EXPECT_FALSE(directory.info(closed).has_value());
}

TEST(Kcmp, TellsSharedFromEqual) {
  UniqueFd a(eventfd(0, 0));
  UniqueFd same(dup(a.get()));
  UniqueFd other(eventfd(0, 0));
  EXPECT_EQ(compare_open_files(getpid(), a.get(), getpid(), same.get()), 0);
  const int order = compare_open_files(getpid(), a.get(), getpid(), other.get());
  EXPECT_NE(order, 0);
  EXPECT_EQ(compare_open_files(getpid(), other.get(), getpid(), a.get()), -order);
  EXPECT_EQ(try_compare_open_files(getpid(), a.get(), getpid(), 9999), -2);
  EXPECT_THROW(compare_open_files(getpid(), a.get(), getpid(), 9999), Error);
}

TEST(Kcmp, NamesEpollTargets) {
  UniqueFd epoll(epoll_create1(0));
  UniqueFd a(eventfd(0, 0));
  UniqueFd other(eventfd(0, 0));
  epoll_event wanted{};
  ASSERT_EQ(epoll_ctl(epoll.get(), EPOLL_CTL_ADD, a.get(), &wanted), 0);
  EXPECT_TRUE(is_epoll_target(getpid(), epoll.get(), a.get(), 0, a.get()));
  EXPECT_FALSE(is_epoll_target(getpid(), epoll.get(), a.get(), 0, other.get()));
  EXPECT_FALSE(is_epoll_target(getpid(), epoll.get(), a.get(), 1, a.get()));
}

}  // namespace
}  // namespace godwit
